"""Our mathematics beside that of packages that we did not write: `make oracles`."""

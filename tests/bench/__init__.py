"""Speed and memory of merges beside other packages: `make bench`."""

"""The protocol: what is measured, how, and on what; it knows no method."""

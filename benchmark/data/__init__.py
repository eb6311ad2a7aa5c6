"""Data sets of the embedded suite."""

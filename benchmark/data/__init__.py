"""The embedded suite's data sets, one per file, and how they are drawn."""

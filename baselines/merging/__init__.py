"""Merge methods, one per file."""

"""Defences, one per file."""

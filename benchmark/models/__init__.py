"""CLIP encoders used as functions of their weights."""

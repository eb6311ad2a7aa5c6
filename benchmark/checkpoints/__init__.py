"""Checkpoints from elsewhere and for elsewhere: read without running anything in them, written."""

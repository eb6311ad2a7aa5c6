"""CLIP: image tower, text tower and zero-shot heads."""

"""Small checkpoints that other packages wrote, with what those packages compute with them."""

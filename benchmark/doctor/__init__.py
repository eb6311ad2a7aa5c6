"""`lfpm-bench doctor`: what is wrong with this machine for these cells, and the exact fix."""

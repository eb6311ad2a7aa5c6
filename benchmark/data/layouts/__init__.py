"""Published data sets as their own files lay them out, one module per format."""

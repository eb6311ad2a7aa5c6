"""Where cells are computed: one module per option of conf/launcher (see benchmark.launching)."""

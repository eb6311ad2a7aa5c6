"""LFPM (arXiv 2606.12498): a reconstruction from its abstract and one reading note."""

"""Merges and defences that LFPM is compared with."""

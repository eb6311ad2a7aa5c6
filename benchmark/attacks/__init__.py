"""Attacks: the threat model is part of the protocol."""

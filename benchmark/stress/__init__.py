"""Stresses: what happens to a defended model between its defence and its use."""

"""Randomness has a name: a seed is the hash of what it is for."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(*name: str | int) -> int:
    """A 63-bit seed that depends on every part of `name` and on nothing else."""
    digest = hashlib.sha256(json.dumps(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*name: str | int) -> torch.Generator:
    """A CPU generator seeded by `seed_for(*name)`."""
    import torch

    return torch.Generator().manual_seed(seed_for(*name))

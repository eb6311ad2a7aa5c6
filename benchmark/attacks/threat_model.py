"""The card of an attack: what its attacker knows, controls and needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """One sentence each; every attack has one as its class attribute `threat_model`.

    Attributes:
        knows: of the world outside its own computer.
        controls: what it may change.
        needs: images, words, partners, compute.
    """

    knows: str
    controls: str
    needs: str


OUTSIDER = (
    "The public pre-trained weights, its own task and its head; nothing of the other contributors, "
    "the merge or its coefficients."
)
"""What a single contributor knows."""
OWN_IMAGES = "The labelled training images of its own task."
"""What it needs at least."""
WHOLE_TRAINING = "All of its own training, its loss included, and so its upload."
"""What most attackers control."""
OWN_DATA = "The training images and labels of its own task; the training itself is the honest one."
"""What an attacker who poisons data controls."""

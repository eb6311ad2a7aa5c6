"""Pixels as a file. Pillow is imported late."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray


def png(pixels: ndarray) -> bytes:
    """(H,W,3 or 4) uint8 as the bytes of a PNG."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()

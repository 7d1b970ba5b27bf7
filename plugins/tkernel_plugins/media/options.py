"""Options that media plugins share. Not a plugin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageOptions:
    """Limits of pictures, applied before the model's own resizing, keeping the aspect ratio."""

    image_max_pixels: int = 768 * 768
    """Larger pictures are shrunk to this many pixels (width x height)."""
    image_min_pixels: int = 32 * 32
    """Smaller pictures are enlarged to this many pixels."""

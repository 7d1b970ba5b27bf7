"""Options that media plugins share. Not a plugin."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageOptions:
    """Limits of pictures, applied before the model's own resizing, keeping the aspect ratio."""

    image_max_pixels: int = field(default=768 * 768, metadata={"ge": 1})
    """Larger pictures are shrunk to this many pixels (width x height)."""
    image_min_pixels: int = field(default=32 * 32, metadata={"ge": 1})
    """Smaller pictures are enlarged to this many pixels."""

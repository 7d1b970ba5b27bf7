"""Finding, opening and resizing pictures with Pillow. Not a plugin; a library of this folder."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel_plugins.media.options import ImageOptions

if TYPE_CHECKING:
    from PIL.Image import Image


def open_picture(reference: Any, media_dir: str | None) -> Image:
    """A picture with its size read and its pixels not yet.

    Args:
        reference: a path, relative to `media_dir` unless it is there as it is; or the bytes of a file.
        media_dir: where relative paths start.

    Raises:
        DataError: a file that is missing or no picture; a URL.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise TkError("pictures need Pillow", hint="pip install 'tkernel[media]'") from error

    source = io.BytesIO(reference) if isinstance(reference, bytes) else _path(reference, media_dir)
    try:
        return Image.open(source)
    except FileNotFoundError as error:
        raise DataError(
            f"picture {reference} is not there",
            hint=f"Looked for {Path(str(source)).absolute()}; `media_dir` says where relative paths start.",
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{name_of(reference)} cannot be read as a picture: {error}") from error


def load_picture(reference: Any, media_dir: str | None, options: ImageOptions) -> Image:
    """A picture in RGB, within the limits of `options`.

    Raises:
        DataError: as `open_picture`, and for pixels that are cut off or damaged.
    """
    with open_picture(reference, media_dir) as picture:
        try:
            picture = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{name_of(reference)} is damaged: {error}") from error
    pixels = picture.width * picture.height
    limit = min(max(pixels, options.image_min_pixels), options.image_max_pixels)
    if limit == pixels:
        return picture
    scale = math.sqrt(limit / pixels)
    return picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def name_of(reference: Any) -> str:
    """How errors call a picture."""
    return f"a picture of {len(reference)} bytes" if isinstance(reference, bytes) else f"picture {reference}"


def _path(reference: Any, media_dir: str | None) -> Path:
    text = str(reference)
    if "://" in text:
        raise DataError(f"picture {text} is a URL", hint="Download it and name the file.")
    path = Path(text).expanduser()
    if path.is_absolute() or media_dir is None or path.exists():
        return path
    return Path(media_dir).expanduser() / path

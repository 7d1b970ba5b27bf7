"""A video that is given as a list of frames, kept as one reference: `frames:` and the paths as JSON text.

So every column of media has one type, and a video of frames is cut, packed, kept and counted like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

_SCHEME = "frames:"


def as_reference(frames: Sequence[str]) -> str:
    """The one text that stands for a video of `frames`, paths or URLs."""
    return _SCHEME + json.dumps(list(frames), ensure_ascii=False)


def frames_of(reference: str | None) -> tuple[str, ...] | None:
    """The frames that a reference stands for; None for a path or a URL."""
    if reference is None or not reference.startswith(f'{_SCHEME}["'):
        return None
    try:
        return tuple(map(str, json.loads(reference.removeprefix(_SCHEME))))
    except ValueError:  # the name of a file, however odd
        return None

"""Near misses: what somebody probably meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def near(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` names of `known` that look like `word`, the nearest first.

    Case and the choice between `-` and `_` do not count as differences. Names that are much further than
    the nearest are left out.
    """
    folded: dict[str, str] = {}
    for name in sorted(known):
        folded.setdefault(_fold(name), name)
    matches = difflib.get_close_matches(_fold(word), folded, limit, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, match, _fold(word)).ratio() for match in matches]
    return [folded[match] for match, like in zip(matches, likeness, strict=True) if like > likeness[0] - 0.15]


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`Did you mean 'a' or 'b'?`, or None where nothing is near."""
    names = [repr(name) for name in near(word, known)]
    if not names:
        return None
    return f"Did you mean {', '.join(names[:-1]) + ' or ' if names[1:] else ''}{names[-1]}?"


def near_file(path: Path) -> str | None:
    """`Did you mean 'b.json'?` for a file that is not there, from the names in its folder."""
    return did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else None


def near_path(path: Path) -> str | None:
    """What somebody meant who mistyped the first part of `path` that is not there."""
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    folder = missing.parent
    return did_you_mean(str(missing), map(str, folder.iterdir())) if folder.is_dir() else None


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")

"""Python's search for garbage, held back until a run trains: what it imports, loads and prepares stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

USUAL = gc.get_threshold()
AT_ONCE = 2_000_000
"""New objects after which a search begins, usually 700; a run has a million when it begins to train."""


@contextmanager
def seldom_searched() -> Iterator[None]:
    """What is made here stays: each search would look through all of it again."""
    before = gc.get_threshold()
    gc.set_threshold(AT_ONCE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def not_searched_again() -> Iterator[None]:
    """Search as usual, but leave out what was there before; it is not freed until the end."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*USUAL)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()

"""Python's search for garbage, held back while libraries are imported and weights are loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE = 200_000
"""New objects after which a search begins; Python's own number is 700."""


@contextmanager
def seldom_searched() -> Iterator[None]:
    """What is made here stays, and looking through it again and again took a fifth of a run's start."""
    before = gc.get_threshold()
    gc.set_threshold(AT_ONCE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def not_searched_again() -> Iterator[None]:
    """What was there before is left out of every search until the end; it is not freed until then either."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

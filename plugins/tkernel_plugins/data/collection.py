"""Python's garbage collector, which has nothing to do while rows are read and encoded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for cycles inside.

    Rows, segments and samples hold none and are freed when they are let go; looking for some in a process
    that has imported transformers takes a tenth of the time of encoding.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

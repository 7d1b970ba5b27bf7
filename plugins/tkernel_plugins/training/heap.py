"""Memory that a training run on a CPU would keep without using it."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

PRODUCTS = 64
"""Kinds of matrix products (a shape each) whose code is kept; a row of one length needs about thirty."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers, see mallopt(3)."""

LARGE, SPARE = 4 << 20, 64 << 20
"""Bytes: a block of its own from here on, as logits are; what stays at the end of the heap."""


def keep_little() -> None:
    """Bound what oneDNN and the C library keep; call it before the first product. A user's own bound stands.

    oneDNN compiles bfloat16 products for each length of a row and keeps 1,024 of them, some hundred MiB. glibc
    puts logits between activations once some were freed, and the holes that they leave stay.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRODUCTS))
    if mallopt := _of_glibc("mallopt"):
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            mallopt(M_MMAP_THRESHOLD, LARGE)
        if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
            mallopt(M_TRIM_THRESHOLD, SPARE)


def give_back() -> None:
    """Return to the system what lies free between used blocks."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library, where that has it: musl and macOS do not."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

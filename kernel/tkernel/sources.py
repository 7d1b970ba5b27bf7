"""What the kernel asks the library of sources: where datasets are, what the hub has, the header of a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from tkernel.errors import TkError

SOURCES = "tkernel_sources"
"""The group of entry points that are no plugins: every run may use them, and none chooses them."""


def library(name: str) -> Callable[..., Any]:
    """The function `resolve` (names of datasets), `hub_folder` or `gguf_header`."""
    found = next(iter(entry_points(group=SOURCES, name=name)), None)
    if found is None:
        raise TkError(f"nothing installed provides {SOURCES}:{name}", hint="Run: pip install tkernel")
    function: Callable[..., Any] = found.load()
    return function

"""Functions of the libraries beside the kernel, found by name: what the kernel needs and does not do itself.

| function | what it does |
|---|---|
| `resolve` | names of datasets -> their entries |
| `hub_folder`, `gguf_header` | what the hub has of a model; the header of a GGUF file |
| `training_arguments`, `rename` | the keys that the installed transformers (or TRL) declares; the older names of some |
| `explain` | keys that nobody in the run owns: what was meant, and who owns them |
| `warm_start`, `earlier_result` | the weights of an earlier run; what it left in the output folder |
| `open_chain`, `train_chain` | `stages:` |
| `words_of` | a tokenizer's faster way from text to ids, where there is one |
| `agree` | whether all processes of a distributed run are about to do the same |
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from tkernel.errors import TkError

GROUP = "tkernel_library"
"""The group of entry points that are no plugins: every run may use them, and none chooses them."""


def library(name: str) -> Callable[..., Any]:
    """The function of this name."""
    found = next(iter(_functions(tuple(sys.path)).select(name=name)), None)
    if found is None:
        raise TkError(f"nothing installed provides {GROUP}:{name}", hint="Run: pip install tkernel")
    function: Callable[..., Any] = found.load()
    return function


@functools.cache
def _functions(path: tuple[str, ...]) -> EntryPoints:
    """Every distribution on `path` is looked at: once is enough."""
    return entry_points(group=GROUP)

"""Modules of libraries that are loaded in another way than their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def loaded_by(loader: Callable[[Any], Any], names: Collection[str]) -> Iterator[None]:
    """Inside, the modules `names` are found where Python would, and loaded by what `loader` makes of their own loader."""
    finder = _Finder(loader, names)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


class _Finder:
    def __init__(self, loader: Callable[[Any], Any], names: Collection[str]) -> None:
        self.loader, self.names = loader, names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.names else None
        if spec is not None and spec.loader is not None:
            spec.loader = self.loader(spec.loader)
        return spec

"""The files of transformers' models, read once in a start: it looks through all 2,000 for what they offer, twice.

Once for `transformers`, which names the folder, and once for `transformers.models`, which names a file in it. Its own
cache takes these for two; each reading takes 0.35 CPU seconds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tkernel_plugins.other_loader import loaded_by

MODULE, FUNCTION = "transformers.utils.import_utils", "create_import_structure_from_path"
"""Where the function is that reads a folder, or the folder of a file; a version without it is left as it is."""


@contextmanager
def models_read_once() -> Iterator[None]:
    """If transformers is imported inside, its second look at the models takes what the first has found."""
    with loaded_by(_Loader, (MODULE,)):
        yield


class _Loader:
    """The module's own loader, and a step after it."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self.own
        self.own.exec_module(module)
        read = getattr(module, FUNCTION, None)
        if read is not None:
            setattr(module, FUNCTION, _of_folder(read))


def _of_folder(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`read`, asked for the folder where it is asked for a file in it."""

    @functools.wraps(read)
    def read_folder(path: Any) -> Any:
        return read(os.path.dirname(path) if os.path.isfile(path) else os.fspath(path))

    return read_folder

"""Libraries that others import and a run seldom uses: they are executed when something of them is asked for.

The standard library's `importlib.util.LazyLoader` does not do here: it executes a module as soon as anybody looks
at its `__file__`, and `inspect` looks at that of every module while torch is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tkernel_plugins.other_loader import loaded_by

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "boto3": (),  # imported by accelerate, for SageMaker
    "scipy.optimize": ("linear_sum_assignment",),  # by transformers, for the losses of object detection
}
"""Package -> functions that are imported by name; until they are called, a function stands for each that calls it."""


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, the modules of `FUNCTIONS` that nobody has imported yet are executed when they are used.

    They stay so afterwards. Nothing but the time is another; an error of the module's own code comes then, too.
    """
    with loaded_by(_Loader, FUNCTIONS):
        yield


class _Deferred(ModuleType):
    """A module that is executed at the first look at anything but its name, file and spec."""

    _later: _Loader

    def __getattr__(self, name: str) -> Any:
        _execute(self)
        return getattr(self, name)


class _Loader:
    """Leaves the code of a module for later."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.lock = threading.RLock()
        self.is_executing = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module._later = self  # type: ignore[attr-defined]
        module.__class__ = _Deferred
        if not FUNCTIONS[module.__name__]:  # `from module import function` looks for the path, too
            del module.__path__  # whoever imports a part looks for it, and gets the whole
        for name in FUNCTIONS[module.__name__]:
            setattr(module, name, _standing_for(module, name))


def _standing_for(module: ModuleType, name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        _execute(module)
        return getattr(module, name)(*args, **kwargs)

    return function


def _execute(module: ModuleType) -> None:
    """Execute a module that is deferred still; a thread that comes second waits until that is done.

    Raises:
        AttributeError: its own code asks for what it has not defined yet, as in any circular import.
    """
    later = module.__dict__.get("_later")
    if later is None:
        return
    with later.lock:
        if type(module) is ModuleType:
            return  # another thread was first
        if later.is_executing:
            raise AttributeError(f"{module.__name__} is being executed and has no such attribute yet")
        spec = module.__spec__
        assert spec is not None
        later.is_executing = True
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        spec.loader = module.__loader__ = later.own
        try:
            later.own.exec_module(module)
        finally:
            later.is_executing = False
        module.__class__ = ModuleType
        del module._later

"""Where a module lives, without importing it or its parents."""

from __future__ import annotations

import importlib.util
from importlib.machinery import all_suffixes
from pathlib import Path


def file_of(module: str) -> Path | None:
    """The file of a module, `__init__.py` for a package, the folder for one without; None if it is not there."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: an empty name, or a module in sys.modules without a spec
        return None
    if spec is None:
        return None
    if not rest and spec.origin:
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        files = [path / f"__init__{suffix}" for suffix in all_suffixes()]
        files += [path.with_name(path.name + suffix) for suffix in all_suffixes()]
        if found := next((file for file in (*files, path) if file.exists()), None):
            return found
    return None

"""Importing a plugin that was asked for: whatever its module does ends in an error that names it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import BrokenPlugin
from tkernel.hookspecs import PROJECT
from tkernel.index import Entry
from tkernel.module_file import file_of
from tkernel.trial import trial

IMPORT_LIMIT = 120
"""Seconds that the modules of all plugins together may take to import in the child process."""


def survive(entries: Iterable[Entry]) -> None:
    """Import the modules of foreign plugins in a child process first.

    A module that ends the process on import (`os._exit`, a crash in native code) cannot be caught in
    this one. Modules that are loaded already, and those of the kernel's own distribution, are not
    tried. An ordinary exception is left to `load`.

    Raises:
        BrokenPlugin: a module ended the child, or did not finish in `IMPORT_LIMIT` seconds.
    """
    foreign = {
        module_of(e): e
        for e in entries
        if e.object is None and e.distribution != PROJECT and module_of(e) not in sys.modules
    }
    if not foreign or not sys.executable:
        return
    survived, end = trial(list(foreign), IMPORT_LIMIT)
    if end is not None:
        culprit = list(foreign.values())[len(survived)]
        raise BrokenPlugin(f"{culprit} ({culprit.target}) {end}", hint=_remedy(culprit))


def load(entry: Entry) -> Any:
    """The object that the entry point names.

    Raises:
        BrokenPlugin: the module raises (the message has the plugin's own traceback), or the object is
            not there.
    """
    if entry.object is not None:
        return entry.object
    _, _, attribute = entry.target.partition(":")
    try:
        module = importlib.import_module(module_of(entry))
    except (Exception, SystemExit) as error:
        raise broken(entry, error) from error
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        hint = did_you_mean(attribute, vars(module)) or _remedy(entry)
        raise BrokenPlugin(f"{entry}: {module.__name__} has no {attribute!r}.", hint=hint) from None


def load_file(path: Path, name: str) -> ModuleType:
    """Execute a file as module `name`; its exceptions are the caller's."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_of(entry: Entry) -> str:
    """The module of an entry, or the path of its file."""
    return entry.target if entry.target.endswith(".py") else entry.target.partition(":")[0]


def broken(entry: Entry, error: BaseException) -> BrokenPlugin:
    """`BrokenPlugin` with the plugin's own part of the traceback."""
    told = traceback.TracebackException.from_exception(error)
    machinery = ("<frozen importlib", importlib.__file__, str(Path(__file__).parent))
    own = [f for f in told.stack if not f.filename.startswith(machinery)]
    told.stack = traceback.StackSummary.from_list(own)
    lines = "".join(told.format(chain=False)).rstrip().splitlines()
    text = "\n".join(f"    {line}" for line in lines)
    return BrokenPlugin(f"{entry} ({entry.target}) fails on import:\n{text}", hint=_remedy(entry))


def _remedy(entry: Entry) -> str:
    if entry.door is not None:
        module = module_of(entry)
        beside = Path(f"{module.replace('.', '/')}.py")
        if entry.distribution == "object" and file_of(module) is None and beside.is_file():
            return f"Modules of the current folder are not imported: write --plugin ./{beside}."
        return f"Mend {entry.door}, or leave it out."
    if entry.distribution == PROJECT:
        return f"Run: pip install --force-reinstall {PROJECT}"
    return f"Upgrade it: pip install --upgrade {entry.distribution}; or block it: --plugin no:{entry.distribution}"

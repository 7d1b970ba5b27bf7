"""Importing a plugin that was asked for: whatever its module does ends in an error that names it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import signal
import subprocess
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

IMPORT_LIMIT = 120
"""Seconds that the modules of all plugins together may take to import in the child process."""

# Each target is announced before it is imported: the last one announced is the one that ended the process.
_CHILD = """
import importlib, importlib.util, json, os, sys
job = json.load(sys.stdin)
report = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path[:] = job["path"]
for target in job["targets"]:
    print(target, file=report, flush=True)
    try:
        if target.endswith(".py"):
            spec = importlib.util.spec_from_file_location("tk_door", target)
            module = sys.modules["tk_door"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            importlib.import_module(target)
    except BaseException:
        pass
print("survived", file=report, flush=True)
os._exit(0)
"""


def survive(entries: Iterable[Entry]) -> None:
    """Import the modules of foreign plugins in a child process first.

    A module that ends the process on import (`os._exit`, a crash in native code) cannot be caught in
    this one. One child serves all `entries`; modules that are loaded already, and those of the
    kernel's own distribution, are not tried. An ordinary exception is left to `load`.

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
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    job = json.dumps({"path": [str(folder) for folder in sys.path], "targets": list(foreign)})
    try:
        report, output = child.communicate(job, timeout=IMPORT_LIMIT)
        end = f"ends the process when it is imported ({_status(child.returncode)})"
    except subprocess.TimeoutExpired:
        child.kill()
        report, output = child.communicate()
        end = f"did not finish importing within {IMPORT_LIMIT} s"
    last = report.splitlines()[-1:]
    if last == ["survived"] or not last:
        return
    culprit = foreign[last[0]]
    said = "".join(f"\n    {line}" for line in output.splitlines()[-5:])
    raise BrokenPlugin(f"{culprit} ({culprit.target}) {end}.{said}", hint=_remedy(culprit))


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
        return f"Mend {entry.door}, or take it out of `plugins:`."
    if entry.distribution == PROJECT:
        return f"Run: pip install --force-reinstall {PROJECT}"
    return f"Upgrade it: pip install --upgrade {entry.distribution}; or block it: --plugin no:{entry.distribution}"


def _status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

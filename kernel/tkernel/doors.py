"""Plugins without packaging: a file (`./my_loss.py`, `./mine.jinja`), or an object (`my_pkg.mod:OBJ`)."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tkernel.choose import DEFAULTS
from tkernel.config.suggest import near_file
from tkernel.errors import InvalidPlugin, NoProvider
from tkernel.hookspecs import PROJECT
from tkernel.imports import broken, load, load_file, module_of, survive
from tkernel.index import ALL_KINDS, Entry, Index, normalise, read_index
from tkernel.shape import KIND_OF_HOOK, check_shape, implementations

_OBJECT = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


def is_door(spec: str, index: Index) -> bool:
    """Whether `spec` is a file or an object, not the name of something in the index."""
    if spec.endswith((".py", ".jinja")) or "/" in spec or "\\" in spec:
        return True
    left, _, name = spec.partition(":")
    owned = (entry.name for entry in index.entries if normalise(entry.distribution) == normalise(left))
    return _OBJECT.fullmatch(spec) is not None and left not in {*ALL_KINDS, "no"} and name not in owned


def open_doors(specs: Iterable[str], index: Index) -> Index:
    """The index with the plugins behind every door of `specs` (other names are passed over).

    A Python file is executed, after a trial in a child process.

    Raises:
        NoProvider: no such file.
        BrokenPlugin: executing it fails.
        InvalidPlugin: there is no plugin in it.
    """
    doors = [spec for spec in dict.fromkeys(specs) if is_door(spec, index)]
    return index.adding(entry for spec in doors for entry in open_door(spec))


def open_door(spec: str) -> tuple[Entry, ...]:
    """The plugins behind one door: of a Python file, every module-level instance with a hook implementation;
    of a Jinja file, the template that it is."""
    if _OBJECT.fullmatch(spec):
        door = Entry("plugin", spec, spec, "object", "", door=spec)
        survive([door])
        plugin = load(door)
        file = getattr(sys.modules[module_of(door)], "__file__", None)
        return (object_entry(plugin, spec, spec, "object", _sha256(Path(file)) if file else "?"),)
    path = Path(spec).expanduser().resolve()
    if not path.is_file():
        raise NoProvider(f"There is no plugin file {spec} (looked for {path}).", hint=near_file(path))
    version = _sha256(path)
    if path.suffix == ".jinja":
        return (_chat_template(spec, path, version),)
    door = Entry("plugin", path.stem, str(path), "file", version, door=spec)
    survive([door])
    try:
        module = load_file(path, f"tk_door_{path.stem}_{version[-8:]}")
    except (Exception, SystemExit) as error:
        raise broken(door, error) from error
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    instances = {id(v): v for v in public.values() if not inspect.isclass(v) and implementations(v)}
    if not instances:
        classes = [n for n, value in public.items() if inspect.isclass(value) and implementations(value)]
        raise InvalidPlugin(
            f"{spec} defines no plugin object.",
            hint=f"Add a line: PLUGIN = {classes[0]}()"
            if classes
            else "Put @hookimpl on a method of a class.",
        )
    return tuple(object_entry(plugin, spec, str(path), "file", version) for plugin in instances.values())


def _chat_template(spec: str, path: Path, version: str) -> Entry:
    """A Jinja file as a template: the plugin that reads the models' own makes one with `of_file(path)`."""
    readers = read_index().find("template", DEFAULTS["template"])
    reader = load(next(entry for entry in readers if entry.distribution == PROJECT))
    name = path.stem.replace(".", "-")
    return Entry("template", name, str(path), "file", version, door=spec, object=reader.of_file(path))


def object_entry(
    plugin: Any, door: str, target: str, distribution: str = "object", version: str = "?"
) -> Entry:
    """The entry of a plugin object in memory, its shape checked; its hook tells the kind."""
    found = implementations(plugin)
    provided = [KIND_OF_HOOK[i.hook] for i in found if i.hook in KIND_OF_HOOK and not i.is_wrapper]
    kind = provided[0] if provided else "extension"
    name = getattr(plugin, "name", None) or type(plugin).__name__.lower()
    entry = Entry(kind, name, target, distribution, version, door=door, object=plugin)
    check_shape(entry, plugin)
    return entry


def _sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"

"""What is installed, read from entry-point metadata. No plugin is imported.

Reading has to be cheap, for every command does it: `entry_points.txt` is parsed only where it mentions
a `tkernel.` group, and METADATA only of those distributions. Looked at are the `*.dist-info` and
`*.egg-info` folders of the folders on `sys.path`, which is where pip puts them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tkernel.hookspecs import KINDS, PROJECT

ALL_KINDS = (*KINDS, "extension", "command")
_TARGET = re.compile(r"(?P<target>\w+(\.\w+)*:\w+(\.\w+)*)\s*(\[(?P<extras>[^\]]*)\])?")


@dataclass(frozen=True)
class Entry:
    """One plugin: an entry point, or an object behind a door (`tkernel.doors`)."""

    kind: str
    name: str
    """The entry point's name; `lora.unsloth` is a variant of `lora`."""
    target: str
    """`module:attribute`, or the path of a file."""
    distribution: str
    """As pip knows it; `file` or `object` for doors."""
    version: str
    """Of the distribution; for doors `sha256:` and the digest of the file."""
    requires: tuple[str, ...] = ()
    """Its distribution's `Requires-Dist`, as written."""
    extras: tuple[str, ...] = ()
    """Extras that the entry point itself asks for, `module:attribute [extra]`."""
    location: str = ""
    """The folder of the metadata."""
    door: str | None = None
    """What the user wrote to open the door."""
    object: Any = field(default=None, repr=False, compare=False)
    """The plugin object, for doors only."""

    @property
    def base(self) -> str:
        """The name before a dot: what a variant answers."""
        return self.name.removesuffix(f".{self.variant}")

    @property
    def variant(self) -> str | None:
        """The name after a dot, None for a plain plugin; a dot before a digit is none (`openchat-3.6`)."""
        match = re.search(r"\.(\D.*)", self.name)
        return match[1] if match else None

    @property
    def owner(self) -> str:
        """Distribution and version, or the door, as messages name it."""
        return self.door or f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        return f"{self.kind}:{self.name} of {self.owner}"


@dataclass(frozen=True)
class IndexProblem:
    """Metadata that cannot be used; `line` counts from 1, 0 means the whole file."""

    distribution: str
    version: str
    file: str
    line: int
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.distribution} {self.version}: {where}: {self.message}"


@dataclass(frozen=True)
class Index:
    """All plugins of this environment, in the order of `sys.path`.

    A distribution with a malformed `entry_points.txt` provides nothing and is a problem. Of a
    distribution that is on the path twice the first counts, as for import; the plugins of the others
    are in `shadowed`, unless they are the same ones (what a build left in a checkout names them again).
    """

    entries: tuple[Entry, ...]
    problems: tuple[IndexProblem, ...] = ()
    shadowed: tuple[Entry, ...] = ()

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], tuple[Entry, ...]]:
        found: dict[tuple[str, str], tuple[Entry, ...]] = {}
        for entry in self.entries:
            key = (entry.kind, entry.name)
            found[key] = (*found.get(key, ()), entry)
        return found

    def find(self, kind: str, name: str) -> tuple[Entry, ...]:
        """Every plugin of `kind` with exactly this name; several if distributions share it."""
        return self._by_name.get((kind, name), ())

    def names(self, kind: str) -> tuple[str, ...]:
        """Sorted names of a kind, without variants."""
        return tuple(sorted({e.name for e in self.entries if e.kind == kind and e.variant is None}))

    @cached_property
    def distributions(self) -> Mapping[str, str]:
        """Distributions that have plugins: name -> version."""
        return {e.distribution: e.version for e in self.entries if e.door is None}

    def adding(self, entries: Iterable[Entry]) -> Index:
        """This index and further entries (doors)."""
        return dataclasses.replace(self, entries=(*self.entries, *entries))


def normalise(name: str) -> str:
    """A distribution's name as pip compares it: `Tk_My.Lab` and `tk-my-lab` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_index(path: Sequence[str] | None = None) -> Index:
    """The plugins of the distributions on `path` (default `sys.path`)."""
    entries: list[Entry] = []
    problems: list[IndexProblem] = []
    shadowed: list[Entry] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(sys.path if path is None else path):
        for child in _metadata_folders(folder):
            stem, _, suffix = child.rpartition(".")
            key = normalise(stem.rpartition("-")[0] if suffix == "dist-info" else stem.partition("-")[0])
            first = key not in seen
            seen.add(key)
            location = os.path.join(folder, child)
            text = _read(os.path.join(location, "entry_points.txt"))
            if text is None or f"{PROJECT}." not in text:
                continue
            found, wrong = _read_distribution(location, key, text)
            if first:
                entries += found
                problems += wrong
            else:
                same = {(e.kind, e.name, e.target, e.version) for e in entries}
                shadowed += [e for e in found if (e.kind, e.name, e.target, e.version) not in same]
    return Index(tuple(entries), tuple(problems), tuple(shadowed))


def _metadata_folders(folder: str) -> list[str]:
    try:
        children = os.listdir(folder or ".")
    except OSError:  # a zip file, or a folder that is not there: as import does, pass over it
        return []
    return sorted(child for child in children if child.endswith((".dist-info", ".egg-info")))


def _read(file: str) -> str | None:
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def _read_distribution(location: str, key: str, text: str) -> tuple[list[Entry], list[IndexProblem]]:
    """The plugins of one distribution, or where its `entry_points.txt` stops making sense."""
    name, version, requires = _headers(location, key)
    file = os.path.join(location, "entry_points.txt")
    problems: list[IndexProblem] = []
    entries: dict[tuple[str, str], Entry] = {}
    group = kind = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            group = line[1:-1].strip()
            kind = group.removeprefix(f"{PROJECT}.") if group.startswith(f"{PROJECT}.") else None
            if kind is not None and kind not in ALL_KINDS:
                message = f"{kind!r} is no kind of plugin; the kinds are {', '.join(ALL_KINDS)}"
                problems.append(IndexProblem(name, version, file, number, message))
                kind = None
            continue
        if group is None or line[0] == "[":
            message = f"{line!r} is not a section header `[group]`"
            return [], [IndexProblem(name, version, file, number, message)]
        if kind is None:
            continue
        label, equals, value = (part.strip() for part in line.partition("="))
        target = _TARGET.fullmatch(value)
        if label and target is not None and (kind, label) not in entries:
            extras = tuple(x.strip() for x in (target["extras"] or "").split(",") if x.strip())
            entries[kind, label] = Entry(
                kind, label, target["target"], name, version, requires, extras, location
            )
            continue
        if not equals or not label:
            message = f"{line!r} is not `name = module:object`"
        elif target is None:
            message = f"{value!r} does not name an object as `module:object`"
        else:
            message = f"{kind}:{label} is registered twice"
        return [], [IndexProblem(name, version, file, number, message)]
    return list(entries.values()), problems


def _headers(location: str, key: str) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and requirements; a light reader, for the standard one costs 20 times as much."""
    text = _read(os.path.join(location, "METADATA")) or _read(os.path.join(location, "PKG-INFO")) or ""
    name, version, requires = key, "?", []
    for line in text.splitlines():
        if not line:
            break
        header, _, value = line.partition(":")
        match header.lower():
            case "name":
                name = value.strip()
            case "version":
                version = value.strip()
            case "requires-dist":
                requires.append(value.strip())
    return name, version, tuple(requires)

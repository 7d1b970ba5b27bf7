"""Configuration files into settings that know their line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.config.json_text import LocatedObject, loads
from tkernel.config.suggest import near_file
from tkernel.errors import ConfigError, Problem

if TYPE_CHECKING:
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.nodes import Node

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Setting:
    """One key as it was written in one place."""

    key: str
    value: Any
    origin: str
    """`train.yaml:14`, `TK_ARG_SEED`, `command line` or `settings`."""
    text: str | None = None
    """A scalar exactly as written, so that `1.10` stays `1.10` where text is wanted."""


def read_file(path: str | os.PathLike[str]) -> tuple[list[Setting], list[Problem]]:
    """The top-level keys of a YAML or JSON file (by its suffix), and what is wrong with the file.

    Numbers are YAML 1.2's (`1e-4` is a float); `yes`, `no`, `on`, `off` stay text until a boolean is
    wanted. A key written twice is a problem, and its first value counts.
    """
    shown = str(path)
    try:
        if shown.endswith(".json"):
            return _settings_of_json(read_json(Path(path), "configuration file"), shown)
        return _settings_of_yaml(read_text(Path(path), "configuration file"), shown)
    except ConfigError as error:
        return [], list(error.problems)


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of a file, a byte order mark dropped.

    Raises:
        ConfigError: there is none; the message calls the file `what`.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except IsADirectoryError:
        problem = Problem(f"{path} is a folder, and a {what} is wanted")
    except (FileNotFoundError, NotADirectoryError):
        look = f"Look into the folder: ls {path.parent}"
        hint = near_file(path) or (look if path.parent.is_dir() else f"There is no folder {path.parent}.")
        problem = Problem(f"there is no {what} {path}", hint=hint)
    except OSError as error:
        problem = Problem(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(f"not a text file: byte {error.start} is not UTF-8", f"{path}:{line}")
    else:
        if "\0" not in text:
            return text
        problem = Problem("not a text file: it has zero bytes", str(path))
    raise ConfigError([problem])


def read_json(path: Path, what: str) -> Any:
    """A JSON file, its objects as `LocatedObject`.

    Raises:
        ConfigError: there is none, or a syntax error, told with line and column.
    """
    try:
        return loads(read_text(path, what))
    except json.JSONDecodeError as error:
        found = error.doc[error.pos : error.pos + 12].splitlines()
        end = "the end of the file" if error.pos >= len(error.doc) else "a line end"
        shown = f"found {repr(found[0]) if found else end} in column {error.colno}"
        message = f"not JSON: {error.msg[0].lower()}{error.msg[1:]}, {shown}"
        raise ConfigError([Problem(message, f"{path}:{error.lineno}")]) from error


def parse_value(text: str) -> Any:
    """A value of the command line or the environment, read as YAML reads it in `key: value`.

    Only lists, mappings and quoted text are parsed as such, so `--default_system 'You are: kind'` is text.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        from ruamel.yaml.error import YAMLError

        try:
            node = _compose(text)
            return text if node is None else _value(node)
        except (YAMLError, ValueError):
            return text
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.resolver import VersionedResolver

    return _scalar(VersionedResolver().resolve(ScalarNode, text, (True, False)), text)


def _compose(text: str) -> Node | None:
    from ruamel.yaml import YAML

    node: Node | None = YAML(typ="safe", pure=True).compose(text)
    return node


def _settings_of_yaml(text: str, shown: str) -> tuple[list[Setting], list[Problem]]:
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode

    try:
        root = _compose(text)
    except MarkedYAMLError as error:
        return [], [_syntax_problem(error, shown)]
    except YAMLError as error:
        return [], [Problem(f"not YAML: {str(error).splitlines()[0]}", shown)]
    if root is None or root.tag == f"{_TAG}null":
        return [], []
    if not isinstance(root, MappingNode):
        kind = "a list" if root.tag == f"{_TAG}seq" else "a single value"
        origin = f"{shown}:{root.start_mark.line + 1}"
        return [], [
            Problem(f"the file holds {kind}, not keys", origin, hint="Write one `key: value` a line.")
        ]
    mapping = _value(root)
    return settings_of(mapping, shown), list(_duplicates(mapping, shown))


def _settings_of_json(root: Any, shown: str) -> tuple[list[Setting], list[Problem]]:
    if not isinstance(root, LocatedObject):
        return [], [Problem("the file holds no JSON object with keys", f"{shown}:1")]
    return settings_of(root, shown), list(_duplicates(root, shown))


def settings_of(mapping: LocatedObject, file: str) -> list[Setting]:
    """The keys of a mapping in `file`."""
    return [
        Setting(key, value, f"{file}:{mapping.lines[key]}", mapping.texts.get(key))
        for key, value in mapping.items()
    ]


def _duplicates(value: Any, shown: str) -> Iterator[Problem]:
    """Keys that are set twice, in mappings within lists and mappings too."""
    if isinstance(value, LocatedObject):
        for key, line, first in value.duplicates:
            message = f"{key!r} is set twice; line {first} sets it too"
            yield Problem(message, f"{shown}:{line}", key, "Keep one of the two lines.")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _duplicates(item, shown)


def _syntax_problem(error: MarkedYAMLError, shown: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    origin = f"{shown}:{mark.line + 1}" if mark else shown
    found = error.problem or error.context or "syntax error"
    if "'\\t'" in found:
        return Problem("a tab, where YAML wants spaces", origin, hint="Replace the tab by spaces.")
    if "mapping values are not allowed" in found:
        hint = (
            "Put text that has a colon into quotes, indent keys alike, and write a space after each `key:`."
        )
        return Problem("a `:` that cannot be here", origin, hint=hint)
    if error.context and error.context_mark and mark and error.context_mark.line != mark.line:
        found += f" ({error.context} that starts in line {error.context_mark.line + 1})"
    return Problem(f"not YAML: {found}", origin)


def _pairs(mapping: Node) -> Iterator[tuple[str, Node, int]]:
    """Keys (as text), values and lines of a mapping, those that `<<` merges in last."""
    merged: list[Node] = []
    seen: set[str] = set()
    for key, value in mapping.value:
        if key.tag == f"{_TAG}merge":
            merged += value.value if value.tag == f"{_TAG}seq" else [value]
            continue
        name = key.value if isinstance(key.value, str) else str(_value(key))
        seen.add(name)
        yield name, value, key.start_mark.line + 1
    for source in merged:
        for name, value, line in _pairs(source):
            if name not in seen:
                seen.add(name)
                yield name, value, line


def _value(node: Node) -> Any:
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    if isinstance(node, SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, MappingNode):
        found = LocatedObject()
        for key, item, line in _pairs(node):
            found.put(key, _value(item), line, item.value if isinstance(item, ScalarNode) else None)
        return found
    return _scalar(node.tag, node.value)


def _scalar(tag: str | None, text: str) -> Any:
    """The value of a scalar; tags other than YAML's null, bool, int and float (dates, `!x`) stay text."""
    plain = text.replace("_", "").lower()
    match str(tag).removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return plain == "true"
        case "int":
            return int(plain, 0 if plain.lstrip("+-")[:2] in ("0x", "0o", "0b") else 10)
        case "float" if plain.lstrip("+-") in (".inf", ".nan"):
            return math.nan if "nan" in plain else math.copysign(math.inf, -1 if plain[0] == "-" else 1)
        case "float":
            return float(plain)
    return text

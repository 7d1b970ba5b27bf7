"""JSON whose objects know the line of each key."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class LocatedObject(dict[str, Any]):
    """An object of JSON, or a mapping of YAML.

    `lines` has the line of each key (from 1), `texts` scalars of YAML exactly as they were written, and
    `duplicates` (key, line, line of the first).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self.duplicates: list[tuple[str, int, int]] = []

    def put(self, key: str, value: Any, line: int, text: str | None = None) -> None:
        """Set a key; of one that is written twice the first value counts."""
        if key in self:
            self.duplicates.append((key, line, self.lines[key]))
            return
        self[key], self.lines[key] = value, line
        if text is not None:
            self.texts[key] = text


def loads(text: str) -> Any:
    """Parse `text`; objects, wherever they are, become `LocatedObject`, all else as `json.loads` has it.

    Raises:
        json.JSONDecodeError: with `lineno` and `colno`.
    """
    line_ends = [match.start() for match in re.finditer("\n", text)]
    value, end = _value(text, _skip(text, 0), line_ends)
    end = _skip(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _value(text: str, position: int, line_ends: list[int]) -> tuple[Any, int]:
    match text[position : position + 1]:
        case "{":
            return _object(text, position, line_ends)
        case "[":
            return _array(text, position, line_ends)
    return _DECODER.raw_decode(text, position)


def _array(text: str, start: int, line_ends: list[int]) -> tuple[list[Any], int]:
    values, end = _DECODER.raw_decode(text, start)
    if not any(isinstance(value, dict) for value in values):
        return values, end
    found: list[Any] = []
    position = _skip(text, start + 1)
    for _ in values:  # what stands between them is right: the whole was parsed
        value, position = _value(text, position, line_ends)
        found.append(value)
        position = _skip(text, _skip(text, position) + 1)
    return found, end


def _object(text: str, start: int, line_ends: list[int]) -> tuple[LocatedObject, int]:
    found = LocatedObject()
    position = _skip(text, start + 1)
    if text[position : position + 1] == "}":
        return found, position + 1
    while True:
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
        line = bisect_right(line_ends, position) + 1
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, position)
        value, position = _value(text, _skip(text, position + 1), line_ends)
        found.put(key, value, line)
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            return found, position + 1
        if text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = _skip(text, position + 1)

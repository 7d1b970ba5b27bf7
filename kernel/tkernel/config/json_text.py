"""JSON whose objects know the line of each key."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class LocatedObject(dict[str, Any]):
    """A JSON object; `lines` has the line of each key (from 1), `duplicates` (key, line, line of the first)."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}
        self.duplicates: list[tuple[str, int, int]] = []


def loads(text: str) -> Any:
    """Parse `text`; objects, and objects in objects, become `LocatedObject`, all else as `json.loads` has it.

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
    if text[position : position + 1] == "{":
        return _object(text, position, line_ends)
    return _DECODER.raw_decode(text, position)


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
        if key in found:
            found.duplicates.append((key, line, found.lines[key]))
        else:
            found[key], found.lines[key] = value, line
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            return found, position + 1
        if text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = _skip(text, position + 1)

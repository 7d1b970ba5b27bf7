"""What a file yields before any format has looked at it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in its file: `row` counts from 0, `line` from 1 (None where files have none).

    `problem` is set, and `value` None, for a row that could not be read.
    """

    file: str
    row: int
    line: int | None
    value: Any
    problem: str | None = None


def encoding_of(path: Path) -> str:
    """`utf-8-sig` (UTF-8, a byte order mark tolerated), or `utf-16` if its mark says so."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def numbered_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Number (from 1), text with its line end, and what is wrong with the encoding, of each line."""
    encoding = encoding_of(path)
    if encoding == "utf-16":
        with path.open(encoding=encoding, newline="", errors="replace") as text:
            for number, line in enumerate(text, start=1):
                yield number, line, None
        return
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            try:
                yield number, data.decode(encoding if number == 1 else "utf-8"), None
            except UnicodeDecodeError as error:
                yield number, "", f"not valid UTF-8: {error.reason} at byte {error.start + 1} of the line"

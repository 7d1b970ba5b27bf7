"""JSON and JSON lines with the line of every row, in memory that does not grow with the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from tkernel.errors import DataError
from tkernel_plugins.data.raw import File, RawRow, encoding_of, numbered_lines

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_CHUNK = 1 << 20
# A value that only lacks its end fails within this many characters of the end of the window
# (the longest thing cut in two is a literal, "-Infinity", or a pair of \u escapes).
_CUT = 16


def read_json(path: File, chunk: int = _CHUNK) -> Iterator[RawRow]:
    """Rows of a file that holds a list, `{"data": [...]}` or one object after another.

    Args:
        chunk: bytes to read at once.

    Raises:
        DataError: a syntax error, with file, line and column. It ends the reading, since what
            follows it cannot be told apart from what belongs to it.
    """
    with _Scanner(path, chunk) as scanner:
        first = scanner.peek()
        if first == "":
            return
        if first == "{":
            if not scanner.enter_data():
                yield from (read_json_lines(path) if _starts_with_a_line(path) else scanner.sequence())
                return
        elif first != "[":
            raise scanner.error(f"a list of objects was expected, not {first!r}")
        yield from scanner.array()


def read_json_lines(path: File) -> Iterator[RawRow]:
    """Rows of a file with one object a line. A line that is not JSON is a row with a `problem`."""
    row = 0
    for line, text, problem in numbered_lines(path):
        if problem is None and not text.strip():
            continue
        if row == 0 and problem is None and text.lstrip().startswith("["):
            yield from read_json(path)
            return
        value = None
        if problem is None:
            try:
                value = json.loads(text.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                problem = f"not valid JSON: {error.msg} (column {error.colno})"
            except (RecursionError, ValueError) as error:
                problem = f"not valid JSON: {error}"
        yield RawRow(str(path), row, line, value, problem)
        row += 1


def _starts_with_a_line(path: File) -> bool:
    """Whether the first line that is not blank is a whole JSON value."""
    for _, text, problem in numbered_lines(path):
        if problem is None and text.strip():
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                return False
            return True
    return False


class _Scanner:
    """A window of text over a file: it grows when a value does not fit and forgets what was read."""

    def __init__(self, path: File, chunk: int = _CHUNK) -> None:
        self.path, self.chunk = path, chunk
        self.file = path.open("rb")
        self.decoder = codecs.getincrementaldecoder(encoding_of(path))()
        self.window, self.position, self.ended = "", 0, False
        self.offset, self.line, self.line_start = 0, 1, 0

    def __enter__(self) -> _Scanner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def error(self, message: str, at: int | None = None) -> DataError:
        """A `DataError` at index `at` of the window."""
        at = self.position if at is None else at
        line = self.line + self.window.count("\n", self.position, at)
        newline = self.window.rfind("\n", self.position, at)
        start = self.offset + newline + 1 if newline >= 0 else self.line_start
        return DataError(
            f"{self.path}:{line}:{self.offset + at - start + 1}: not valid JSON: {message}",
            hint="Mend the file; rows after the error cannot be read.",
        )

    def grow(self) -> None:
        """Read on: at least as much as the window holds, so that growing stays linear."""
        size = max(self.chunk, len(self.window) - self.position)
        data = self.file.read(size)
        try:
            text = self.decoder.decode(data, final=len(data) < size)
        except UnicodeDecodeError as error:
            valid = error.object[: error.start].count(b"\n")
            line = self.line + self.window.count("\n", self.position) + valid
            raise DataError(
                f"{self.path}:{line}: not valid {error.encoding}: {error.reason}",
                hint="Save the file as UTF-8.",
            ) from None
        self.ended = len(data) < size
        self.window = self.window[self.position :] + text
        self.offset += self.position
        self.position = 0

    def move(self, to: int) -> None:
        """Go on to index `to`, counting lines."""
        newlines = self.window.count("\n", self.position, to)
        if newlines:
            self.line += newlines
            self.line_start = self.offset + self.window.rindex("\n", self.position, to) + 1
        self.position = to

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end of the file."""
        while True:
            match = _SPACE.match(self.window, self.position)
            self.move(match.end() if match else self.position)
            if self.position < len(self.window):
                return self.window[self.position]
            if self.ended:
                return ""
            self.grow()

    def take(self, *expected: str) -> str:
        """Consume the next character, which must be one of `expected`."""
        found = self.peek()
        if found not in expected or found == "":
            shown = "the end of the file" if found == "" else repr(found)
            raise self.error(f"{' or '.join(map(repr, expected))} was expected, not {shown}")
        self.move(self.position + 1)
        return found

    def value(self) -> Any:
        """Decode one value and go past it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.window, self.position)
                if end < len(self.window) or self.ended:
                    self.move(end)
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.window) - _CUT or error.msg.startswith("Unterminated string")
                if self.ended or not cut:
                    raise self.error(error.msg, error.pos) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            except ValueError as error:
                raise self.error(str(error)) from None
            self.grow()

    def row(self, number: int) -> RawRow:
        """The next value as a row."""
        self.peek()
        line = self.line
        return RawRow(str(self.path), number, line, self.value())

    def array(self) -> Iterator[RawRow]:
        """The rows of a list; the window stands at its bracket."""
        self.take("[")
        if self.peek() == "]":
            return
        number = 0
        while True:
            yield self.row(number)
            number += 1
            if self.take(",", "]") == "]":
                break
        if self.peek() not in ("", "}", ","):
            raise self.error("nothing was expected after the list")

    def sequence(self) -> Iterator[RawRow]:
        """The rows of a file that holds one value after another."""
        number = 0
        while self.peek():
            yield self.row(number)
            number += 1

    def enter_data(self) -> bool:
        """Go to the list of a file `{"data": [...]}`; False, and back to the start, if it is none."""
        start, line, line_start = self.offset + self.position, self.line, self.line_start
        self.move(self.position + 1)
        found = self.peek() == '"' and self.value() == "data" and self.peek() == ":"
        if found:
            self.move(self.position + 1)
            found = self.peek() == "["
        if not found:
            self.rewind(start, line, line_start)
        return found

    def rewind(self, start: int, line: int, line_start: int) -> None:
        """Back to character `start`; what lies before the window is read again."""
        if start >= self.offset:
            self.position = start - self.offset
        else:
            self.file.close()
            self.file = self.path.open("rb")
            self.decoder.reset()
            self.window, self.position, self.offset, self.ended = "", 0, 0, False
            self.peek()
        self.line, self.line_start = line, line_start

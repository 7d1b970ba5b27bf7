"""What a file yields before any format has looked at it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from tkernel.errors import TkError


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


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of rows that is not simply a path: compressed, or somewhere else.

    `name` is what messages call it, `suffix` is that of the rows in it (`.jsonl` of `rows.jsonl.gz`),
    `opener` gives its bytes from the beginning, as often as it is called. Whatever goes wrong with them
    is an `OSError`.
    """

    name: str
    suffix: str
    opener: Callable[[], BinaryIO]

    def open(self, mode: str = "rb") -> BinaryIO:
        """The bytes of the rows; only for reading."""
        assert mode == "rb"
        return cast(BinaryIO, io.BufferedReader(_Guarded(self.opener), io.DEFAULT_BUFFER_SIZE * 8))

    def __str__(self) -> str:
        return self.name


File = Path | DataFile
"""What the readers read: both have `suffix` and `open("rb")`, and `str()` names them."""


class _Guarded(io.RawIOBase):
    """A stream whose errors are `OSError`, whatever library it comes from."""

    def __init__(self, opener: Callable[[], BinaryIO]) -> None:
        super().__init__()
        self._stream = self._do(opener)

    def _do(self, action: Callable[..., Any], *given: Any) -> Any:
        try:
            return action(*given)
        except TkError:
            raise
        except Exception as error:  # each filesystem and each compression raises its own
            raise OSError(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._do(self._stream.seekable))

    def readinto(self, buffer: Any) -> int:
        data = self._do(self._stream.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._do(self._stream.seek, offset, whence))

    def tell(self) -> int:
        return int(self._do(self._stream.tell))

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def encoding_of(file: File) -> str:
    """UTF-8 (a byte order mark tolerated), or UTF-16 or UTF-32 if its mark or its zero bytes say so."""
    with file.open("rb") as stream:
        found = json.detect_encoding(stream.read(4))
    return "utf-8-sig" if found == "utf-8" else found


def numbered_lines(file: File) -> Iterator[tuple[int, str, str | None]]:
    """Number (from 1), text with its line end, and what is wrong with the encoding, of each line."""
    encoding = encoding_of(file)
    if encoding != "utf-8-sig":
        yield from _wide_lines(file, encoding)
        return
    with file.open("rb") as stream:
        for number, data in enumerate(stream, start=1):
            try:
                yield number, data.decode(encoding if number == 1 else "utf-8"), None
            except UnicodeDecodeError as error:
                yield number, "", f"not valid UTF-8: {error.reason} at byte {error.start + 1} of the line"


def _wide_lines(file: File, encoding: str) -> Iterator[tuple[int, str, str | None]]:
    """Lines of UTF-16 or UTF-32; what follows a broken one cannot be read."""
    number = 0
    with io.TextIOWrapper(file.open("rb"), encoding, "surrogatepass", newline="") as text:
        try:
            for number, line in enumerate(text, start=1):
                yield number, line, None
        except UnicodeDecodeError as error:
            yield number + 1, "", f"not valid {encoding.upper()}: {error.reason}"

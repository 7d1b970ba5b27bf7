"""The canonical rows behind prepared samples, found by their origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.types.dataset import LoadedDataset

Key = tuple[str, int]
"""File and row of an origin."""


@dataclass(frozen=True)
class Found:
    """A canonical row and the name of the dataset that has it."""

    dataset: str
    row: Mapping[str, Any]


def key_of(origin: Mapping[str, Any]) -> Key:
    """What tells one row from another."""
    return origin["file"], origin["row"]


class Rows:
    """Looks rows up in loaded datasets.

    Streams are read once, from the start, and what was read of them stays in memory.
    """

    def __init__(self, loaded: Sequence[LoadedDataset]) -> None:
        self._tables = [item for item in loaded if hasattr(item.rows, "num_rows")]
        self._streams = [
            (item.entry.name, iter(item.rows)) for item in loaded if not hasattr(item.rows, "num_rows")
        ]
        self._waiting: dict[Key, list[Found]] = {}

    def find(self, origins: Iterable[Mapping[str, Any]]) -> dict[Key, list[Found]]:
        """The rows of these origins. Several datasets may have read the same row of a file."""
        wanted = {key_of(origin) for origin in origins}
        found: dict[Key, list[Found]] = {}
        for item in self._tables:
            for row in _of_table(item.rows, wanted):
                found.setdefault(key_of(row["origin"]), []).append(Found(item.entry.name, row))
        for name, stream in self._streams:
            for key, rows in self._of_stream(name, stream, wanted - found.keys()):
                found.setdefault(key, []).extend(rows)
        return found

    def at(self, file: str, line: int) -> Found | None:
        """The row at a line of a file (or that row, where files have no lines); the file's name may be the end
        of its path."""
        for item in self._tables:
            for number, origin in enumerate(item.rows.with_format("arrow")["origin"][:].to_pylist()):
                if is_at(origin, file, line):
                    return Found(item.entry.name, item.rows[number])
        for name, stream in self._streams:
            for row in stream:
                if is_at(row["origin"], file, line):
                    return Found(name, row)
        return None

    def _of_stream(
        self, name: str, stream: Iterator[Mapping[str, Any]], wanted: set[Key]
    ) -> Iterator[tuple[Key, list[Found]]]:
        missing = set(wanted)
        for key in wanted & self._waiting.keys():
            missing.discard(key)
            yield key, self._waiting[key]
        while missing and (row := next(stream, None)) is not None:
            key = key_of(row["origin"])
            self._waiting[key] = [Found(name, row)]
            if key in missing:
                missing.discard(key)
                yield key, self._waiting[key]


def is_at(origin: Mapping[str, Any], file: str, line: int) -> bool:
    """Whether a row lies at `file:line` (`file`'s row `line` where files have no lines)."""
    number = origin["row"] if origin.get("line") is None else origin["line"]
    name = str(origin["file"])
    return number == line and (name == file or name.endswith(f"/{file}"))


def _of_table(rows: Any, wanted: set[Key]) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    origins = rows.with_format("arrow").select_columns(["origin"])[:]["origin"]
    numbers = pc.struct_field(origins, "row")
    hits = pc.indices_nonzero(pc.is_in(numbers, pa.array(sorted({row for _, row in wanted}), numbers.type)))
    files = pc.struct_field(origins, "file").take(hits).to_pylist()
    for position, file, number in zip(hits.to_pylist(), files, numbers.take(hits).to_pylist(), strict=True):
        if (file, number) in wanted:
            yield rows[position]

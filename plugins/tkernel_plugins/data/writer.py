"""Canonical rows of a whole dataset, written to an Arrow file batch by batch."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tkernel_plugins.data.canonical import MEDIA, features
from tkernel_plugins.data.formats import BadRow
from tkernel_plugins.data.raw import RawRow

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1000
_BATCH_CHARACTERS = 1 << 24


class RowWriter:
    """Takes canonical rows of one kind; what is in memory is one batch.

    The file is an Arrow stream with the features of the rows in its schema. Media columns are those in
    `media` and those with content, as plain paths where no row has bytes: a file that was begun without
    them is written again with them as soon as the first such row comes.

    `numbers` are the numbers of the rows that were kept.

    Args:
        path: the file to write; there is none until the writer is closed.
        reject: called for each row that is not kept, in the order of the rows: those that `refuse` was
            called for, and those that Arrow cannot store (a lone surrogate is not text).
    """

    def __init__(
        self, path: Path, kind: str, media: Iterable[str], reject: Callable[[RawRow, BadRow], None]
    ) -> None:
        self.path, self.kind, self.reject = path, kind, reject
        self.numbers = array("q")
        # Name of a media column -> whether it holds structs with bytes.
        self._media = {name: False for name in MEDIA if name in media}
        self._rows: list[tuple[int, dict[str, Any], RawRow]] = []
        self._refused: list[tuple[int, RawRow, BadRow]] = []
        self._characters = 0
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        self._open()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._close()
            if kind is None:
                os.replace(self._draft, self.path)
            else:
                self._draft.unlink(missing_ok=True)

    def add(self, number: int, row: dict[str, Any], raw: RawRow) -> None:
        """Add row `number` of the dataset, which came from `raw`."""
        row["origin"] = origin_of(raw)
        self._rows.append((number, row, raw))
        self._characters += _size(row)
        if len(self._rows) >= _BATCH or self._characters >= _BATCH_CHARACTERS:
            self.flush()

    def refuse(self, number: int, raw: RawRow, bad: BadRow) -> None:
        """Row `number` of the dataset cannot be used."""
        self._refused.append((number, raw, bad))
        if len(self._refused) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Store the rows collected so far, and reject those that were refused meanwhile."""
        rows, self._rows, self._characters = self._rows, [], 0
        if rows:
            self._store(rows)
        for _, raw, bad in sorted(self._refused, key=itemgetter(0)):
            self.reject(raw, bad)
        self._refused = []

    def _store(self, rows: list[tuple[int, dict[str, Any], RawRow]]) -> None:
        self._widen([row for _, row, _ in rows])
        given = with_paths([row for _, row, _ in rows], self._media)
        batch, refused = stored(given, self._schema)
        self._refused += [(rows[index][0], rows[index][2], bad) for index, bad in refused.items()]
        self.numbers.extend(number for index, (number, _, _) in enumerate(rows) if index not in refused)
        self._writer.write_batch(batch)

    def _open(self) -> None:
        import pyarrow as pa

        as_bytes = [name for name, struct in self._media.items() if struct]
        self._schema = features(self.kind, self._media, as_bytes).arrow_schema
        self._sink = pa.OSFile(str(self._draft), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)

    def _close(self) -> None:
        self._writer.close()
        self._sink.close()

    def _widen(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Give the file the media columns that `rows` need."""
        wider = self._media | media_columns(rows, self._media)
        if wider == self._media:
            return
        import pyarrow as pa

        self._close()
        earlier = self._draft.with_suffix(".narrow")
        os.replace(self._draft, earlier)
        self._media = wider
        self._open()
        with pa.OSFile(str(earlier)) as source:
            for batch in pa.ipc.open_stream(source):
                rows_before = with_paths(as_structs(batch.to_pylist()), self._media)
                self._writer.write_batch(record_batch(rows_before, self._schema))
        earlier.unlink()


def stored(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> tuple[pa.RecordBatch, dict[int, BadRow]]:
    """Rows in Arrow's memory; those that Arrow cannot store are left out: index -> why."""
    try:
        return record_batch(rows, schema), {}
    except BadRow:
        pass  # One of them is bad; one by one it shows which.
    refused: dict[int, BadRow] = {}
    for index, row in enumerate(rows):
        try:
            record_batch([row], schema)
        except BadRow as bad:
            refused[index] = bad
    return record_batch([row for index, row in enumerate(rows) if index not in refused], schema), refused


def origin_of(raw: RawRow) -> dict[str, Any]:
    """The column `origin` of the row that comes from `raw`."""
    return {"file": raw.file, "row": raw.row, "line": raw.line}


def record_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows in Arrow's memory; raises `BadRow` for what Arrow cannot store."""
    import pyarrow as pa

    try:
        return pa.RecordBatch.from_pylist(rows, schema=schema)
    except UnicodeEncodeError as error:
        raise BadRow("not valid Unicode", f"lone surrogate {error.object[error.start]!r}") from None
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise BadRow("a value that cannot be stored", str(error)) from None


def media_columns(rows: Sequence[Mapping[str, Any]], known: Mapping[str, bool]) -> dict[str, bool]:
    """The media columns that `rows` need beside or instead of `known`: name -> whether it holds bytes."""
    found = {}
    for name in MEDIA:
        items = [item for row in rows for item in row.get(name) or ()]
        if items and not known.get(name):
            found[name] = any(item["bytes"] is not None for item in items)
    return found


def with_paths(rows: Sequence[Mapping[str, Any]], media: Mapping[str, bool]) -> Sequence[Mapping[str, Any]]:
    """`rows` with plain paths in the columns of `media` that hold no bytes."""
    plain = [name for name, as_bytes in media.items() if not as_bytes]
    if not plain:
        return rows
    return [row | {name: [item["path"] for item in row[name]] for name in plain} for row in map(dict, rows)]


def as_structs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`rows` with `{path, bytes}` for every medium, as rows are before they are written."""
    return [
        {
            **row,
            **{
                name: [
                    item if isinstance(item, dict) else {"path": item, "bytes": None}
                    for item in row.get(name) or ()
                ]
                for name in MEDIA
            },
        }
        for row in rows
    ]


def _size(row: Mapping[str, Any]) -> int:
    """About how many characters and bytes a row holds."""
    columns = (row.get(name, ()) for name in ("messages", "chosen", "rejected", "completion"))
    contents = sum(len(m["content"]) + len(m["reasoning"] or "") for column in columns for m in column)
    media = sum(len(item["bytes"] or b"") for name in MEDIA for item in row.get(name) or ())
    return contents + media + len(row.get("text") or "") + len(row.get("tools") or "")

"""Canonical rows, collected batch by batch in Arrow's memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tkernel_plugins.data.canonical import MEDIA, features
from tkernel_plugins.data.formats import BadRow
from tkernel_plugins.data.raw import RawRow

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_BATCH = 1000
_BATCH_CHARACTERS = 1 << 26


class RowWriter:
    """Takes canonical rows of one kind and gives a `datasets.Dataset`.

    Only one batch at a time exists as Python objects. `numbers` are the numbers of the rows that were
    kept. A row that Arrow cannot store (a lone surrogate is not text) comes back from `refused`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.numbers: list[int] = []
        self.refused: list[tuple[RawRow, BadRow]] = []
        # Paths and bytes may be mixed while reading; `dataset` makes plain paths of them if it can.
        self._schema = features(kind, MEDIA, as_bytes=MEDIA).arrow_schema
        self._rows: list[tuple[int, dict[str, Any], RawRow]] = []
        self._characters = 0
        self._batches: list[pa.RecordBatch] = []

    def add(self, number: int, row: dict[str, Any], raw: RawRow) -> None:
        """Add row `number` of the dataset, which came from `raw`."""
        row["origin"] = {"file": raw.file, "row": raw.row, "line": raw.line}
        self._rows.append((number, row, raw))
        self._characters += _size(row)
        if len(self._rows) >= _BATCH or self._characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Store the rows collected so far."""
        rows, self._rows, self._characters = self._rows, [], 0
        if not rows:
            return
        try:
            batch = self._stored([row for _, row, _ in rows])
        except BadRow:
            rows = [entry for entry in rows if self._can_store(entry[1], entry[2])]
            batch = self._stored([row for _, row, _ in rows])
        self.numbers.extend(number for number, _, _ in rows)
        self._batches.append(batch)

    def dataset(self, media: Iterable[str] = ()) -> datasets.Dataset:
        """All rows that were stored. Media columns are those in `media` and those with content."""
        import pyarrow as pa
        from datasets import Dataset, DatasetInfo

        self.flush()
        table = pa.Table.from_batches(self._batches, schema=self._schema)
        paths = []
        for name in MEDIA:
            position = table.column_names.index(name)
            items = [chunk.flatten() for chunk in table.column(name).chunks]
            if name not in media and not any(len(chunk) for chunk in items):
                table = table.remove_column(position)
            elif not any(len(chunk) - chunk.field("bytes").null_count for chunk in items):
                paths.append(name)
                table = table.set_column(position, name, _paths_of(table.column(name)))
        kept = [name for name in MEDIA if name in table.column_names]
        columns = features(self.kind, kept, as_bytes=[name for name in kept if name not in paths])
        # A fresh fingerprint: nothing that is derived from these rows is found in an old cache.
        return Dataset(
            table.cast(columns.arrow_schema),
            info=DatasetInfo(features=columns),
            fingerprint=uuid.uuid4().hex[:16],
        )

    def _stored(self, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        import pyarrow as pa

        try:
            return pa.RecordBatch.from_pylist(rows, schema=self._schema)
        except UnicodeEncodeError as error:
            raise BadRow("not valid Unicode", f"lone surrogate {error.object[error.start]!r}") from None
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise BadRow("a value that cannot be stored", str(error)) from None

    def _can_store(self, row: dict[str, Any], raw: RawRow) -> bool:
        try:
            self._stored([row])
        except BadRow as bad:
            self.refused.append((raw, bad))
            return False
        return True


def _paths_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of lists of `{path, bytes}` as lists of paths."""
    import pyarrow as pa

    chunks = []
    for chunk in column.chunks:
        sizes = chunk.value_lengths().to_numpy(zero_copy_only=False)
        offsets = pa.array([0, *sizes.cumsum().tolist()], type=pa.int32())
        chunks.append(pa.ListArray.from_arrays(offsets, chunk.flatten().field("path")))
    return pa.chunked_array(chunks, type=pa.list_(pa.string()))


def _size(row: dict[str, Any]) -> int:
    """About how many characters a row holds."""
    columns = (row.get(name, ()) for name in ("messages", "chosen", "rejected", "completion"))
    contents = sum(len(m["content"]) + len(m["reasoning"] or "") for column in columns for m in column)
    return contents + len(row.get("text") or "")

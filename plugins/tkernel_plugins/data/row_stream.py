"""Canonical rows of one entry that are read while they are used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetReport
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import MEDIA, features
from tkernel_plugins.data.conversion import SHOWN, Conversion
from tkernel_plugins.data.formats import BadRow, Format
from tkernel_plugins.data.raw import RawRow
from tkernel_plugins.data.rows import fill_report
from tkernel_plugins.data.sources import files_of, raw_rows
from tkernel_plugins.data.writer import origin_of, stored

if TYPE_CHECKING:
    import datasets

_CHUNK = 100
"""Rows that are read at once."""


def stream_rows(request: DatasetRequest, form: Format) -> datasets.IterableDataset:
    """The rows of an entry as a dataset that reads them each time it is iterated.

    `request.report` counts each row of the source once, however often it is read. Media columns are always
    there, as `{path, bytes}`, since it is not known what is still to come.

    Raises:
        DataError: `num_samples` is declared; while iterating, as `load_rows`.
    """
    from datasets import DatasetInfo, IterableDataset
    from datasets.iterable_dataset import ExamplesIterable

    entry = request.entry
    if entry.num_samples is not None:
        raise DataError(
            f"{entry.origin or entry.name}: dataset {entry.name!r} declares `num_samples`, which are drawn from "
            "all rows, and a stream does not know how many there are",
            hint="Leave out `streaming`, or declare no `num_samples` and set `max_samples`.",
        )
    stream = RowStream(request, form)
    media = () if stream.kind == "text" else MEDIA
    columns = features(stream.kind, media, as_bytes=media)
    stream.schema = columns.arrow_schema
    # `from_generator` would take a digest of all that the stream refers to, rows in memory among it.
    return IterableDataset(ExamplesIterable(stream.numbered, {}), info=DatasetInfo(features=columns))


class RowStream:
    """The rows of an entry, from the first one on each time it is iterated."""

    def __init__(self, request: DatasetRequest, form: Format) -> None:
        self.request, self.form = request, form
        self.kind = Conversion(request, form).kind
        self.schema: Any = None
        self.states: dict[str, tuple[int, int]] | None = None

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows with their numbers, as `datasets` wants them."""
        yield from enumerate(self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows that can be used, in their order.

        Raises:
            DataError: a row cannot be used and `on_bad_row` is `error`; no row can be used, or a declared
                column is in none, which is known after the last one; a local file is not what it was when the
                first pass began.
        """
        self._refuse_changes()
        conversion = Conversion(self.request, self.form)
        seen = conversion.report = DatasetReport(self.request.report.name)
        raw = islice(
            raw_rows(self.request.entry, conversion.options, streaming=True), conversion.options.max_samples
        )
        while chunk := list(islice(raw, _CHUNK)):
            rows = self._converted(chunk, conversion)
            seen.read += len(chunk)
            seen.kept += len(rows)
            self._count(seen)
            yield from rows
        self._refuse_changes()
        conversion.check()
        if unread := conversion.unread():
            seen.notes.append(f"columns not read: {', '.join(unread[:SHOWN])}")
            self._count(seen)

    def _refuse_changes(self) -> None:
        """Sizes and times of local files, taken when the first pass begins, must be those of now."""
        if self.request.entry.source != "file":
            return
        found = {str(file): os.stat(str(file)) for file in files_of(self.request.entry)}
        states = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
        self.states = self.states or states
        for name in sorted(states.keys() | self.states.keys()):
            was, now = self.states.get(name), states.get(name)
            if was != now:
                told = [f"{state[0]:,} bytes" if state else "not there" for state in (was, now)]
                raise DataError(
                    f"{name} changed while it was trained on: it was {told[0]} and is {told[1]}",
                    hint="Restore it and go on with `resume_from_checkpoint: true`, or start afresh.",
                )

    def _converted(self, chunk: Sequence[RawRow], conversion: Conversion) -> list[dict[str, Any]]:
        """The rows of a chunk that can be used; the others are counted, or the first is an error."""
        rows: list[dict[str, Any]] = []
        places: list[int] = []
        bad: dict[int, BadRow] = {}
        for place, raw in enumerate(chunk):
            try:
                rows.append(conversion.canonical(raw) | {"origin": origin_of(raw)})
                places.append(place)
            except BadRow as reason:
                bad[place] = reason
        _, refused = stored(rows, self.schema)
        bad |= {places[index]: reason for index, reason in refused.items()}
        for place, reason in sorted(bad.items(), key=lambda item: item[0]):
            conversion.reject(chunk[place], reason)
            if conversion.options.on_bad_row == "error":
                raise DataError(
                    str(conversion.report.rejected[-1]),
                    hint="Mend the row, or leave such rows out with `on_bad_row: drop`.",
                )
        return [row for index, row in enumerate(rows) if index not in refused]

    def _count(self, seen: DatasetReport) -> None:
        # A later pass over the same rows has nothing new to say until it comes further than those before.
        if seen.read >= self.request.report.read:
            fill_report(self.request.report, vars(seen))

"""From a dataset entry to canonical rows: the part that all formats share."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tkernel.types.dataset import DatasetReport, Rejection
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.arrow_files import mapped
from tkernel_plugins.data.cache_rows import keep_rows
from tkernel_plugins.data.collection import without_collection
from tkernel_plugins.data.conversion import SHOWN, Conversion
from tkernel_plugins.data.formats import BadRow, Format
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.progress import Progress
from tkernel_plugins.data.sources import raw_rows

if TYPE_CHECKING:
    import datasets

ROWS, REPORT, ORDER = "rows.arrow", "report.json", "order.npy"
"""The files of a folder that `write_rows` fills: the rows, what was counted, and what `num_samples` drew."""


def load_rows(request: DatasetRequest, form: Format) -> datasets.Dataset | datasets.IterableDataset:
    """All of `load_dataset` but the conversion of a row.

    Reads the entry, converts row by row, samples (`num_samples`, `max_samples`) and counts what was
    read, kept and rejected in `request.report`. The rows are on disk, mapped into
    memory, and kept there for the next run; with `streaming` they are read anew each time the dataset is
    iterated, and counted as they come.

    Raises:
        DataError: nothing can be read, columns are wrong, the rows are not of the kind that the
            stage needs, or rows are bad and `on_bad_row` is `error`. From a stream, while it is read.
    """
    options: RowOptions = request.options or RowOptions()
    if options.streaming:
        from tkernel_plugins.data.row_stream import stream_rows

        return stream_rows(request, form)
    return keep_rows(request, partial(write_rows, request, form), open_rows)


def write_rows(request: DatasetRequest, form: Format, folder: Path) -> None:
    """Read the entry, and write its canonical rows and what was counted into `folder`.

    Raises:
        DataError: as `load_rows`; the folder then holds nothing that can be opened.
    """
    from tkernel_plugins.data.writer import RowWriter

    conversion, report, entry = Conversion(request, form), request.report, request.entry
    rows = raw_rows(entry, conversion.options)
    most = conversion.options.max_samples
    if most is not None and entry.num_samples is None:
        rows = islice(rows, most)
    media = () if conversion.kind == "text" else entry.columns or ()
    writer = RowWriter(folder / ROWS, conversion.kind, media, conversion.reject)
    with without_collection(), Progress(f"read {entry.name}", None, quiet_below=2.0) as progress, writer:
        for raw in rows:
            report.read += 1
            if report.read % 1000 == 0:
                progress.advance(1000)
            try:
                writer.add(report.read - 1, conversion.canonical(raw), raw)
            except BadRow as bad:
                writer.refuse(report.read - 1, raw, bad)
        writer.flush()
        progress.advance(report.read % 1000)
        conversion.check()
    report.kept = len(writer.numbers)
    if entry.num_samples is not None:
        report.kept = _write_sample(folder, request, writer.numbers, most)
        report.notes.append(f"num_samples: {report.kept:,} drawn from {len(writer.numbers):,}")
    if unread := conversion.unread():
        report.notes.append(f"columns not read: {', '.join(unread[:SHOWN])}")
    (folder / REPORT).write_text(json.dumps(asdict(report)), encoding="utf-8")


def open_rows(folder: Path, report: DatasetReport) -> datasets.Dataset:
    """The rows that `write_rows` has put into `folder`, mapped into memory; fills `report`."""
    import numpy as np

    fill_report(report, json.loads((folder / REPORT).read_text(encoding="utf-8")))
    dataset = mapped(folder / ROWS)
    order = folder / ORDER
    return dataset.select(np.load(order)) if order.exists() else dataset


def fill_report(report: DatasetReport, counted: dict[str, object]) -> None:
    """Set what was counted; `counted` is the report as plain values, of which only the name is not taken."""
    for field in fields(report):
        if field.name != "name" and field.name in counted:
            setattr(report, field.name, counted[field.name])
    report.rejected = [item if isinstance(item, Rejection) else Rejection(**item) for item in report.rejected]


def sample_indices(rows: int, wanted: int, seed: int) -> list[int]:
    """Which rows `num_samples` takes: each at most once up to their number, then again at random.

    LLaMA-Factory's rule, with numpy's generator at `seed`.
    """
    import numpy as np

    generator = np.random.RandomState(seed)
    chosen: list[int] = generator.permutation(rows)[:wanted].tolist()
    if wanted > rows:
        chosen += generator.choice(rows, wanted - rows).tolist()
    return chosen


def _write_sample(folder: Path, request: DatasetRequest, kept: object, most: int | None) -> int:
    """Draw `num_samples` of all rows read, leave out those that were rejected, and write their positions."""
    import numpy as np

    numbers = np.asarray(kept, dtype=np.int64)
    assert request.entry.num_samples is not None
    chosen = np.asarray(
        sample_indices(request.report.read, request.entry.num_samples, request.seed)[:most], dtype=np.int64
    )
    positions = np.searchsorted(numbers, chosen)
    there = positions < len(numbers)
    there[there] = numbers[positions[there]] == chosen[there]
    np.save(folder / ORDER, positions[there])
    return int(there.sum())

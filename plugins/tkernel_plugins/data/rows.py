"""From a dataset entry to canonical rows: the part that all formats share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, message_to_dict
from tkernel.types.dataset import DatasetEntry, Rejection
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.formats import BadRow, Format, MissingColumn, Row, Sample, kind_of
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.progress import Progress
from tkernel_plugins.data.raw import RawRow
from tkernel_plugins.data.sources import raw_rows

if TYPE_CHECKING:
    import datasets

SHOWN = 20
"""Bad rows that a message names; the others are counted."""

_OPTIONAL = ("query", "history", "system", "tools", "images", "videos", "audios")
_MOST_COLUMNS = 1000


def load_rows(request: DatasetRequest, form: Format) -> datasets.Dataset:
    """All of `load_dataset` but the conversion of a row.

    Reads the entry, converts row by row, samples (`num_samples`, `max_samples`) and counts what was
    read, kept and rejected in `request.report`.

    Raises:
        DataError: nothing can be read, columns are wrong, the rows are not of the kind that the
            stage needs, or rows are bad and `on_bad_row` is `error`.
    """
    reading = _Reading(request, form)
    rows = raw_rows(request.entry)
    options = reading.options
    if options.max_samples is not None and request.entry.num_samples is None:
        rows = islice(rows, options.max_samples)
    with Progress(f"read {request.entry.name}", None, quiet_below=2.0) as progress:
        reading.read(rows, progress)
    reading.check()
    return reading.dataset()


class _Reading:
    """One pass over the rows of an entry."""

    def __init__(self, request: DatasetRequest, form: Format) -> None:
        from tkernel_plugins.data.writer import RowWriter

        self.entry, self.report, self.form = request.entry, request.report, form
        self.options: RowOptions = request.options or RowOptions()
        self.seed = request.seed
        self.columns, self.tags = form.columns_of(request.entry), form.tags_of(request.entry)
        self.kind = _kind(request)
        self.media_dirs = _media_dirs(request)
        self.writer = RowWriter(self.kind)
        self.seen: dict[str, None] = {}
        self.missing: dict[str, int] = {}

    def read(self, rows: Iterator[RawRow], progress: Progress) -> None:
        """Convert every row, counting those that cannot be used."""
        for raw in rows:
            self.report.read += 1
            if self.report.read % 1000 == 0:
                progress.advance(1000)
            try:
                self.writer.add(self.report.read - 1, self.canonical(raw), raw)
            except BadRow as bad:
                self.reject(raw, bad)
        self.writer.flush()
        for refused, reason in self.writer.refused:
            self.reject(refused, reason)
        progress.advance(self.report.read % 1000)

    def canonical(self, raw: RawRow) -> dict[str, Any]:
        """The canonical row of a raw one; raises `BadRow`."""
        if raw.problem is not None:
            reason, _, detail = raw.problem.partition(": ")
            raise BadRow(reason, detail)
        if not isinstance(raw.value, dict):
            raise BadRow("a row must be an object", f"it is {kind_of(raw.value)}")
        if len(self.seen) < _MOST_COLUMNS:
            self.seen.update(dict.fromkeys(map(str, raw.value)))
        row = Row(raw.value, self.columns, self.tags, self.kind)
        sample = self.form.convert(row)
        return canonical_row(sample, self.kind) | {
            name: [self.resolve(item) for item in _references(row, sample, name)] for name in MEDIA
        }

    def resolve(self, item: Any) -> dict[str, Any]:
        """A medium as a struct; its path is the file below `media_dir` or beside the data, if it is there."""
        given = item if isinstance(item, dict) else {"bytes" if isinstance(item, bytes) else "path": item}
        path, content = given.get("path"), given.get("bytes")
        if isinstance(path, str) and content is None:
            paths = (os.path.join(folder, path) for folder in self.media_dirs)
            path = next(filter(os.path.isfile, paths), path)
        return {"path": path, "bytes": content}

    def reject(self, raw: RawRow, bad: BadRow) -> None:
        """Count a bad row, and remember where it was if it is one of the first."""
        if isinstance(bad, MissingColumn):
            self.missing[bad.column] = self.missing.get(bad.column, 0) + 1
        self.report.rejections[bad.reason] = self.report.rejections.get(bad.reason, 0) + 1
        if len(self.report.rejected) < SHOWN:
            self.report.rejected.append(Rejection(raw.file, raw.row, raw.line, str(bad)))

    def check(self) -> None:
        """Raise what is wrong with the dataset as a whole."""
        read, bad = self.report.read, sum(self.report.rejections.values())
        where = _where(self.entry)
        if read == 0:
            raise DataError(f"{where} has no rows")
        for column, count in self.missing.items():
            if count == read:
                raise self.wrong_columns(column)
        self.check_optional_columns()
        if bad and (self.options.on_bad_row == "error" or bad == read):
            first = "\n".join(f"  {rejection}" for rejection in self.report.rejected)
            more = (
                f"\n  and {bad - len(self.report.rejected):,} more" if bad > len(self.report.rejected) else ""
            )
            raise DataError(
                f"{bad:,} of {read:,} rows of {where} cannot be used\n{first}{more}",
                hint="Mend them, or leave them out with `on_bad_row: drop`."
                if bad < read
                else f"Is `{self.form.name}` the right format? It is set by `formatting` in dataset_info.json.",
            )

    def check_optional_columns(self) -> None:
        """A column that is declared and that no row has is a mistake, unless only some rows were read."""
        partial = self.options.max_samples is not None and self.entry.num_samples is None
        if self.entry.columns is None or partial:
            return
        for name in _OPTIONAL:
            if name in self.columns and self.columns[name] not in self.seen:
                raise DataError(
                    f"{self.entry.origin or _where(self.entry)}: dataset {self.entry.name!r} declares "
                    f"`{name}: {self.columns[name]}` and no row has that column; columns found: "
                    f"{', '.join(self.seen)}",
                    hint=did_you_mean(self.columns[name], self.seen),
                )

    def wrong_columns(self, column: str) -> DataError:
        """The one error for a file in which no row has a column that it must have."""
        found = list(self.seen)
        fitting = _formats_that_fit(found)
        declared = f", which {self.entry.origin} declares" if self.entry.columns and self.entry.origin else ""
        fits = f"These columns fit the format {' or '.join(fitting)}." if fitting else ""
        advice = (
            fits,
            did_you_mean(column, found),
            "`formatting` and `columns` of dataset_info.json set them.",
        )
        return DataError(
            f"{_where(self.entry)}: no row has the column `{column}`{declared}, which the format "
            f"`{self.form.name}` needs; columns found: {', '.join(found) or 'none'}",
            hint=" ".join(part for part in advice if part),
        )

    def dataset(self) -> datasets.Dataset:
        """The rows, sampled as the entry and the options ask."""
        dataset = self.writer.dataset(media=self.entry.columns or ())
        if self.entry.num_samples is not None:
            chosen = sample_indices(self.report.read, self.entry.num_samples, self.seed)
            position = {number: index for index, number in enumerate(self.writer.numbers)}
            chosen = chosen[: self.options.max_samples]
            dataset = dataset.select([position[number] for number in chosen if number in position])
        self.report.kept = len(dataset)
        unread = [name for name in self.seen if name not in self.columns.values()]
        if unread:
            self.report.notes.append(f"columns not read: {', '.join(unread[:SHOWN])}")
        return dataset


def canonical_row(sample: Sample, kind: str) -> dict[str, Any]:
    """The columns of a sample in rows of `kind`, without media and origin; raises `BadRow`."""
    if kind == "text":
        if sample.text is None:
            raise BadRow("no text in this row")
        return {"text": sample.text}
    row: dict[str, Any] = {"tools": _tools_text(sample.prompt)}
    prompt = [message_to_dict(message) for message in sample.prompt.messages]
    replies = [message_to_dict(message) for message in sample.replies]
    if kind == "prompt":
        return row | {"messages": prompt}
    wanted = 2 if kind == "preference" else 1
    if len(replies) != wanted:
        raise BadRow("no reply to learn" if not replies else "not one reply")
    if kind == "preference":
        return row | {"messages": prompt, "chosen": replies[:1], "rejected": replies[1:]}
    if kind == "feedback":
        return row | {"messages": prompt, "completion": replies, "label": sample.label}
    return row | {"messages": prompt + replies}


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


def _kind(request: DatasetRequest) -> str:
    """The kind of rows to make, if the dataset can give what the stage asks for."""
    entry, wanted = request.entry, request.rows
    given = entry.rows
    if entry.formatting is None and entry.columns is None and not entry.ranking:
        given = wanted
    if wanted in ("text", "prompt") or wanted == given:
        return wanted
    how = {
        "supervised": "`ranking` and `kto_tag` must not be declared",
        "preference": "declare `ranking: true` and the columns `chosen` and `rejected`",
        "feedback": "declare the column `kto_tag`",
    }
    raise DataError(
        f"dataset {entry.name!r}{f' ({entry.origin})' if entry.origin else ''} has {given} rows, and this "
        f"stage needs {wanted} rows",
        hint=f"For {wanted} rows: {how.get(wanted, 'take another dataset')} in dataset_info.json.",
    )


def _references(row: Row, sample: Sample, name: str) -> Sequence[Any]:
    """The media of a row: those that the conversion found, else those of the column."""
    found: Sequence[Any] = getattr(sample.prompt, name)
    value = row.get(name)
    if value is None or value == "" or value == []:
        return found
    if found:
        raise BadRow(f"{name} are given in the messages and in `{row.columns[name]}`")
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, list):
            raise BadRow(f"`{row.columns[name]}` holds lists of frames, which are not supported")
        if isinstance(item, dict) and not (item.get("bytes") or item.get("path")):
            raise BadRow(f"`{row.columns[name]}` holds an object without `bytes` and `path`")
        if not isinstance(item, (str, bytes, dict)):
            raise BadRow(f"`{row.columns[name]}` must hold paths, URLs or bytes", f"it holds {kind_of(item)}")
    return items


def _media_dirs(request: DatasetRequest) -> list[str]:
    if request.entry.source != "file":
        return []
    path = Path(request.entry.location)
    beside = path if path.is_dir() else path.parent
    return [*([request.media_dir] if request.media_dir else []), str(beside)]


def _tools_text(conversation: Conversation) -> str | None:
    if not conversation.tools:
        return "[]" if conversation.empty_tools else None
    return json.dumps(list(conversation.tools), ensure_ascii=False)


def _where(entry: DatasetEntry) -> str:
    return entry.location if entry.source in ("file", "hf_hub") else f"dataset {entry.name!r}"


def _formats_that_fit(columns: Sequence[str]) -> list[str]:
    """Formats that registered one of `columns` as a further name."""
    registered = list(entry_points(group="tkernel.dataset"))
    targets = {point.value for point in registered if point.name in columns}
    names = {point.name for point in registered if point.value in targets and point.name not in columns}
    return sorted(names) or sorted({point.name for point in registered if point.name in columns})

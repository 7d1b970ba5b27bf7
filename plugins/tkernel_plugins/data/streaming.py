"""Samples that are encoded while they are trained on, from datasets too large or too slow to read first."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel.types.dataset import LoadedDataset
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.batches import BatchWork, EncodedBatch, work_of
from tkernel_plugins.data.canonical import MEDIA, features
from tkernel_plugins.data.formats import BadRow
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.report import PreparationReport, SampleCounts
from tkernel_plugins.data.rows import fill_report
from tkernel_plugins.data.scratch import scratch_folder
from tkernel_plugins.data.stream_mix import mixed, shuffled
from tkernel_plugins.data.writer import as_structs, record_batch

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from tkernel_plugins.data.prepare import Prepared

_CHUNK = 100
"""Rows that are taken out of a dataset at once."""

Row = tuple[int, int, Mapping[str, Any]]
"""The number of the dataset, the number of the row in it, and the row."""


@dataclass(frozen=True)
class Position:
    """A place between two samples of a stream; the next one is `sample` of `batch` of the pass `epoch`."""

    epoch: int = 0
    batch: int = 0
    """Batches are of `preprocessing_batch_size` rows."""
    sample: int = 0
    last: Mapping[str, Any] | None = None
    """Origin and digest of the sample before, by which other data are told; None at the beginning."""
    counted: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """`PreparationReport.stored` of everything up to the end of the batch."""


class StreamReport(PreparationReport):
    """What was met so far; before anything was, the lines name what will be read."""

    def lines(self) -> list[str]:
        """Lines for the screen."""
        if "training" in self.splits:
            return super().lines()
        train = [counts.name for counts in self.datasets if counts.split == "train"]
        held_out = self.splits.get("evaluation")
        kept = f"; {held_out:,} samples are held out" if held_out else ""
        return [f"stream     {', '.join(train)}: read and encoded while training{kept}"]


class EncodedStream:
    """Encoded samples of several datasets: mixed, shuffled in a buffer, encoded batch by batch.

    Iterated, it gives one pass over the data, whose order depends on the seed and on `epoch` alone. The
    samples are rows as in `Prepared`. `report` counts what the first pass has met so far.

    Args:
        sources: the datasets; a `datasets.Dataset` is passed over like a stream.
        held_out: numbers of dataset and row that are evaluated on, and left out here.
    """

    def __init__(
        self,
        sources: Sequence[LoadedDataset],
        work: BatchWork,
        options: PrepareOptions,
        rows: str,
        *,
        seed: int,
        shuffle: bool,
        report: PreparationReport,
        split: str = "train",
        held_out: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.sources, self.work, self.options, self.rows = sources, work, options, rows
        self.seed, self.shuffle, self.report, self.held_out = seed, shuffle, report, held_out
        self.split = split
        self.epoch = 0
        self.counts = [SampleCounts(source.entry.name, source.report, split) for source in sources]
        self._batches_counted = 0
        report.datasets.extend(self.counts)

    def set_epoch(self, epoch: int) -> None:
        """Which pass the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample, _ in self.samples(Position(self.epoch)):
            yield sample

    def ordered(self, epoch: int) -> Iterator[Row]:
        """The rows of a pass in their order, those that are held out among them."""
        sources = [partial(_rows_of, number, source) for number, source in enumerate(self.sources)]
        options = self.options
        merged = mixed(sources, options.mix_strategy, options.interleave_probs, self.seed)
        return shuffled(merged, options.buffer_size, self.seed, epoch) if self.shuffle else merged

    def samples(self, start: Position) -> Iterator[tuple[dict[str, Any], Position]]:
        """The rest of a pass: each sample with the position after it.

        Rows before `start` are read again, and not encoded.

        Raises:
            DataError: a row cannot be used and `on_bad_row` is `error`; the sample before `start` is another
                one than it was.
        """
        rows = (row for row in self.ordered(start.epoch) if row[:2] not in self.held_out)
        size = self.options.preprocessing_batch_size
        number = -1
        while batch := list(islice(rows, size)):
            number += 1
            if number < start.batch:
                continue
            first = start.sample if number == start.batch else 0
            encoded = self._encoded(batch)
            if first:
                _compare(encoded.samples, start)
            if start.epoch == 0 and number >= self._batches_counted:
                self._batches_counted = number + 1
                self._count(encoded, "training")
            counted = self.report.stored()
            for index, sample in enumerate(encoded.samples.slice(first).to_pylist(), start=first + 1):
                yield sample, Position(start.epoch, number, index, _mark(sample), counted)
        if number < start.batch and start.last is not None:
            raise _other_data(start, f"this pass has {number + 1} batches")

    def endless(self, start: Position) -> Iterator[tuple[dict[str, Any], Position]]:
        """Samples from `start` on, pass after pass, each with the position after it.

        Raises:
            DataError: as `samples`; a whole pass has no sample.
        """
        if start.counted:
            self._restore(start.counted)
            self._batches_counted = start.batch + 1
        while True:
            given = start.sample + start.batch
            for pair in self.samples(start):
                given += 1
                yield pair
            if not given:
                places = [place for counts in self.counts for place in counts.positions]
                raise DataError(
                    "\n".join(["no sample of the stream can be used", *(f"  {place}" for place in places)]),
                    hint="Is `cutoff_len` long enough, has every row a reply, and does `val_size` leave any?",
                )
            start = Position(start.epoch + 1)

    def whole(self, rows: Iterator[Row]) -> datasets.Dataset:
        """These rows, encoded and counted as evaluation data, in a temporary file."""
        with scratch_folder() as folder:
            file = folder / "samples.arrow"
            return stored_samples(file, self._whole(rows), self.work.encoder.optional)

    def _whole(self, rows: Iterator[Row]) -> Iterator[pa.Table]:
        while batch := list(islice(rows, self.options.preprocessing_batch_size)):
            encoded = self._encoded(batch)
            self._count(encoded, "evaluation")
            yield encoded.samples

    def _encoded(self, rows: Sequence[Row]) -> EncodedBatch:
        import numpy as np

        return self.work(self._table(rows), np.array([number for number, _, _ in rows]))

    def _count(self, encoded: EncodedBatch, split: str) -> None:
        for number, tally in encoded.tallies.items():
            self.counts[number].add(tally)
        self.report.left_over += encoded.left_over
        self.report.splits[split] = self.report.splits.get(split, 0) + encoded.samples.num_rows

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        import pyarrow as pa
        from datasets import Features

        media = () if self.rows == "text" else MEDIA
        columns = dict(features(self.rows, media, as_bytes=media))
        for number in {number for number, _, _ in rows} if self.rows == "prompt" else ():
            columns = (getattr(self.sources[number].rows, "features", None) or {}) | columns
        values = as_structs([row for _, _, row in rows]) if media else [dict(row) for _, _, row in rows]
        for (number, index, _), value in zip(rows, values, strict=True):
            if not value.get("origin"):
                value["origin"] = {"file": self.sources[number].entry.name, "row": index, "line": None}
        try:
            return pa.Table.from_batches([record_batch(values, Features(columns).arrow_schema)])
        except BadRow as bad:
            names = ", ".join(sorted({self.sources[number].entry.name for number, _, _ in rows}))
            raise DataError(f"rows of {names} are not canonical: {bad}") from None

    def _restore(self, counted: Mapping[str, Any]) -> None:
        # In place: the datasets go on counting in the reports that they have.
        report = PreparationReport.restored(counted)
        before = [counts for counts in report.datasets if counts.split == self.split]
        names = [[counts.name for counts in found] for found in (before, self.counts)]
        if names[0] != names[1]:
            raise DataError(
                f"the stream is not what it was: it read {', '.join(names[0])}, and now {', '.join(names[1])}",
                hint="Restore the datasets of the run, or start afresh in another `output_dir`.",
            )
        for counts, stored in zip(self.counts, before, strict=True):
            for name in vars(stored).keys() - {"name", "rows"}:
                setattr(counts, name, getattr(stored, name))
            fill_report(counts.rows, vars(stored.rows))
        self.report.splits, self.report.left_over = dict(report.splits), report.left_over


def prepare_stream(request: StageRequest, rows: str, options: PrepareOptions) -> Prepared:
    """What `prepare` gives where a dataset is a stream: training samples are encoded as they are used.

    What is evaluated on is passed over many times, so it is read and encoded now: the datasets of
    `eval_dataset`, or the first `val_size` rows of the shuffled training data, which are left out of
    every pass.

    Raises:
        DataError: a row cannot be used and `on_bad_row` is `error`.
        TkError: `val_size` is a share, or `eval_dataset` is set too.
    """
    from tkernel_plugins.data.prepare import Prepared

    work = work_of(request, rows, options)
    report = StreamReport(cutoff_len=options.cutoff_len, packed=work.packing is not None)
    shuffle = not _is_sequential(request)
    seed = request.seed if request.arguments.get("data_seed") is None else request.arguments["data_seed"]

    def stream(sources: Sequence[LoadedDataset], **more: Any) -> EncodedStream:
        return EncodedStream(sources, work, options, rows, seed=seed, report=report, **more)

    def held_out(sources: Sequence[LoadedDataset]) -> datasets.Dataset:
        part = stream(sources, shuffle=False, split="eval")
        return part.whole(part.ordered(0))

    train = stream(request.train, shuffle=shuffle) if request.train else None
    evaluation: Any = None
    if options.val_size and train is not None:
        if request.eval:
            raise TkError(
                "`val_size` splits evaluation data off the training data, and `eval_dataset` names other data",
                hint="Leave one of the two out.",
            )
        if options.val_size < 1:
            raise TkError(
                f"`val_size: {options.val_size:g}` is a share, and a stream does not know how many rows it has",
                hint="Give a number of rows, such as `val_size: 500`.",
            )
        taken = list(islice(train.ordered(0), int(options.val_size)))
        train.held_out = frozenset((number, row) for number, row, _ in taken)
        evaluation = train.whole(iter(taken))
    elif request.eval and options.eval_on_each_dataset:
        parts = {loaded.entry.name: [loaded] for loaded in request.eval}
        evaluation = {name: held_out(part) for name, part in parts.items()}
    elif request.eval:
        evaluation = held_out(request.eval)
    return Prepared(train, evaluation, report)


def _rows_of(number: int, source: LoadedDataset) -> Iterator[Row]:
    """The rows of a dataset from the first one on; not by `iter`, which in a worker gives a part of them."""
    row = 0
    for columns in source.rows.with_format(None).iter(batch_size=_CHUNK):
        for values in zip(*columns.values(), strict=True):
            yield number, row, dict(zip(columns, values, strict=True))
            row += 1


def _is_sequential(request: StageRequest) -> bool:
    strategy = request.arguments.get("train_sampling_strategy")
    return bool(getattr(request.options, "disable_shuffling", False)) or strategy == "sequential"


def _mark(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a sample from others: where it (a packed row: its last sample) came from, and its ids."""
    origin = sample["origins"][-1] if "origins" in sample else sample["origin"]
    ids = (array("q", values) for name, values in sample.items() if name.endswith("input_ids"))
    return {**origin, "digest": hashlib.blake2b(b"".join(ids), digest_size=8).hexdigest()}


def _compare(samples: pa.Table, start: Position) -> None:
    """Raise if the sample before `start` is not the one that was there."""
    before = samples.slice(start.sample - 1, 1).to_pylist()
    if not before or _mark(before[0]) != start.last:
        raise _other_data(start, f"that is now {_mark(before[0])}" if before else "there are fewer now")


def _other_data(start: Position, difference: str) -> DataError:
    return DataError(
        f"the stream is not what it was: sample {start.sample} of batch {start.batch} of pass {start.epoch} was "
        f"{start.last}, and {difference}",
        hint="Restore the data and the options of the run, or start afresh in another `output_dir`.",
    )


def stored_samples(file: Path, tables: Iterator[pa.Table], optional: Sequence[str]) -> datasets.Dataset:
    """Encoded samples, written to `file` and mapped, without the `optional` columns that have no content.

    Raises:
        DataError: there are none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset

    first = next(tables, None)
    used: set[str] = set()
    if first is not None:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
                lists = {name: table[name] for name in optional if name in table.column_names}
                used |= {
                    name for name, column in lists.items() if pc.sum(pc.list_value_length(column)).as_py()
                }
    dataset = Dataset.from_file(str(file)) if first is not None else Dataset.from_dict({})
    if len(dataset) == 0:
        raise DataError(
            "no sample for evaluation can be used",
            hint="Is `cutoff_len` long enough, and does every row have a reply?",
        )
    unused = [name for name in optional if name in dataset.column_names and name not in used]
    return dataset.remove_columns(unused)

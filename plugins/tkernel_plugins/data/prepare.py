"""From rows to encoded samples: what a stage trains and evaluates on, and the report of how it came to be."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel.types.dataset import LoadedDataset
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.arrow_files import ArrowWriter, mapped
from tkernel_plugins.data.batches import BatchWork, encode_batches, witness, work_of
from tkernel_plugins.data.cache_entry import Entry
from tkernel_plugins.data.cache_samples import keep_samples
from tkernel_plugins.data.mix import MergedRows, merged_order
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.progress import Progress
from tkernel_plugins.data.report import PreparationReport, SampleCounts
from tkernel_plugins.data.split import split_order

if TYPE_CHECKING:
    import datasets

    from tkernel_plugins.data.streaming import EncodedStream


REPORT = "data_report.json"
"""The report of a training run, in its output folder."""


@dataclass(frozen=True)
class Prepared:
    """Encoded samples, in the order in which the datasets are mixed and split.

    Each has `origin`, and the columns of its kind (`tkernel_plugins.data.encoding`), without those that
    have no content; a packed row has `lengths` and `origins` (`tkernel_plugins.data.packing`). `eval` is a
    mapping from dataset to samples with `eval_on_each_dataset`. A split without datasets is None. Where a
    dataset is a stream, `train` is one too.
    """

    train: datasets.Dataset | EncodedStream | None
    eval: datasets.Dataset | dict[str, datasets.Dataset] | None
    report: PreparationReport


@dataclass(frozen=True)
class _Part:
    """What becomes one dataset of samples: `train`, `eval`, or `eval of NAME`."""

    name: str
    rows: MergedRows
    counts: list[SampleCounts]


def prepare(request: StageRequest, rows: str = "supervised") -> Prepared:
    """Mix the datasets of a stage, split off `val_size`, encode batch by batch, pack, and keep the result.

    Samples without a token to learn are left out and counted. What was prepared before from the same
    content is read, not made again.

    Args:
        request: the stage's request.
        rows: the kind of rows that the stage needs.

    Raises:
        DataError: a row cannot be rendered or its media do not fit (counted instead with
            `on_bad_row: drop`), or nothing remains.
        TkError: options that contradict each other, or `tokenized_path` holds something else.
    """
    options: PrepareOptions = request.options or PrepareOptions()
    if any(not hasattr(loaded.rows, "num_rows") for loaded in (*request.train, *request.eval)):
        from tkernel_plugins.data.streaming import prepare_stream

        return prepare_stream(request, rows, options)
    _check(request, options)
    work = work_of(request, rows, options)
    parts = parts_of(request, options)

    def write(folder: Path) -> Mapping[str, Any]:
        return _write(folder, parts, work, options)

    def opened(entry: Entry) -> Prepared:
        if entry.hit:
            _compare(entry, parts, work)
        return _open(entry, parts)

    prepared = keep_samples(request, rows, options, write, opened)
    if request.output_dir is not None and os.environ.get("RANK", "0") == "0":
        text = json.dumps(prepared.report.to_json(), indent=1) + "\n"
        (request.output_dir / REPORT).write_text(text, encoding="utf-8")
    return prepared


def _check(request: StageRequest, options: PrepareOptions) -> None:
    if options.val_size and request.eval:
        raise TkError(
            "`val_size` splits evaluation data off the training data, and `eval_dataset` names other data",
            hint="Leave one of the two out.",
        )


def parts_of(request: StageRequest, options: PrepareOptions) -> list[_Part]:
    """Training and evaluation data, each with the order of its rows."""
    parts = []
    if request.train:
        train = _mixed("train", request.train, request.seed, options)
        if options.val_size:
            kept, held_out = split_order(train.rows.order, options.val_size, request.seed)
            parts = [
                _Part("train", MergedRows(train.rows.parts, kept), train.counts),
                _Part("eval", MergedRows(train.rows.parts, held_out), train.counts),
            ]
        else:
            parts = [train]
    if options.eval_on_each_dataset:
        parts += [
            _mixed(f"eval of {loaded.entry.name}", [loaded], request.seed, options) for loaded in request.eval
        ]
    elif request.eval:
        parts.append(_mixed("eval", request.eval, request.seed, options))
    return parts


def _mixed(name: str, loaded: Sequence[LoadedDataset], seed: int, options: PrepareOptions) -> _Part:
    lengths = [len(item.rows) for item in loaded]
    order = merged_order(lengths, options.mix_strategy, options.interleave_probs, seed)
    counts = [SampleCounts(item.entry.name, item.report, name.split()[0]) for item in loaded]
    return _Part(name, MergedRows([item.rows for item in loaded], order), counts)


def _write(folder: Path, parts: list[_Part], work: BatchWork, options: PrepareOptions) -> Mapping[str, Any]:
    """Encode every part into a file; returns what is needed to open them, and the report."""
    started = time.monotonic()
    report = PreparationReport(cutoff_len=options.cutoff_len, packed=work.packing is not None)
    described = []
    for number, part in enumerate(parts):
        file = f"{number}.arrow"
        written, columns = _write_part(folder / file, part, work, options, report)
        split = "training" if part.name == "train" else "evaluation"
        report.splits[split] = report.splits.get(split, 0) + written
        described.append(
            {"part": part.name, "file": file, "columns": columns, "witness": witness(part.rows, work.encoder)}
        )
    for counts in _all_counts(parts):
        report.datasets.append(counts)
        if counts.encoded == 0:
            first = "\n".join(f"  {rejection}" for rejection in counts.positions)
            raise DataError(
                f"no sample of dataset {counts.name!r} can be used\n{first}",
                hint="Is `cutoff_len` long enough, and does every row have a reply?",
            )
    empty = [name for name, count in report.splits.items() if count == 0]
    if empty:
        why = "Raise `val_size` or `cutoff_len`."
        if work.packing is not None and report.left_over:
            why = f"The {report.left_over:,} tokens fill no row of `cutoff_len`: lower it."
        raise DataError(f"no sample for {empty[0]} can be used", hint=why)
    report.seconds = time.monotonic() - started
    return {"parts": described, "report": report.stored()}


def _write_part(
    path: Path, part: _Part, work: BatchWork, options: PrepareOptions, report: PreparationReport
) -> tuple[int, list[str]]:
    """Rows written, and the columns that have content."""
    writer = ArrowWriter(path)
    filled: set[str] = set()
    columns: list[str] = []
    names = ", ".join(counts.name for counts in part.counts)
    title = "encode" if part.name == "train" else "encode for evaluation"
    size, processes = options.preprocessing_batch_size, options.preprocessing_num_workers or 1
    with Progress(f"{title} {names}", len(part.rows)) as progress:
        for batch in encode_batches(part.rows, work, size, processes):
            writer.write(batch.samples)
            for number, tally in batch.tallies.items():
                part.counts[number].add(tally)
            report.left_over += batch.left_over
            filled |= batch.filled
            columns = batch.samples.column_names
            progress.advance(batch.rows)
    writer.close()
    unused = set(work.encoder.optional) - filled
    return writer.rows, [name for name in columns if name not in unused]


def _all_counts(parts: list[_Part]) -> list[SampleCounts]:
    """The counts of every dataset once; rows that `val_size` takes are counted with those it leaves."""
    return list({id(counts): counts for part in parts for counts in part.counts}.values())


def _compare(entry: Entry, parts: list[_Part], work: BatchWork) -> None:
    """Encode a few rows again; they must be what was stored."""
    known = {part["part"]: part["witness"] for part in entry.content["parts"]}
    for part in parts:
        if witness(part.rows, work.encoder) != known.get(part.name):
            raise TkError(
                f"samples in {entry.folder} are not what their rows are encoded to now, though nothing that "
                "is known of has changed: the template, the media processor or a plugin behind them gives "
                "different results for the same row",
                hint="Make the plugin depend on its options alone; `overwrite_cache: true` encodes anew.",
            )


def _open(entry: Entry, parts: list[_Part]) -> Prepared:
    report = PreparationReport.restored(entry.content["report"])
    report.cache = entry.outcome
    current = {(counts.name, counts.split): counts.rows for counts in _all_counts(parts)}
    for counts in report.datasets:  # what was read may have changed where what was kept has not
        counts.rows = current.get((counts.name, counts.split), counts.rows)
    opened = {
        part["part"]: mapped(entry.folder / part["file"], part["columns"]) for part in entry.content["parts"]
    }
    each = {
        name.removeprefix("eval of "): rows for name, rows in opened.items() if name.startswith("eval of ")
    }
    return Prepared(opened.get("train"), each or opened.get("eval"), report)

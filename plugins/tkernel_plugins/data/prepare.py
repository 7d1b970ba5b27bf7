"""From rows to encoded samples: what a stage trains and evaluates on, and the report of how it came to be."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel.types.dataset import LoadedDataset, Rejection
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.encode import BatchEncoder, encoded_features
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.progress import Progress
from tkernel_plugins.data.report import PreparationReport, SampleCounts

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@dataclass(frozen=True)
class Prepared:
    """Encoded samples, in the order of datasets and rows.

    Each has `input_ids`, `labels` (-100 where nothing is learned), `origin`, and `weights` and media
    columns where the data has them. `eval` is a mapping from dataset to samples with
    `eval_on_each_dataset`. A split without datasets is None.
    """

    train: datasets.Dataset | None
    eval: datasets.Dataset | dict[str, datasets.Dataset] | None
    report: PreparationReport


def prepare(request: StageRequest) -> Prepared:
    """Encode the datasets of a supervised stage, one batch at a time, and split off `val_size`.

    Samples without a token to learn are left out and counted.

    Raises:
        DataError: a row cannot be rendered or its media do not fit (counted instead with
            `on_bad_row: drop`), or nothing remains.
        TkError: `val_size` and `eval_dataset` are both set.
    """
    options: PrepareOptions = request.options or PrepareOptions()
    if options.val_size and request.eval:
        raise TkError(
            "`val_size` splits evaluation data off the training data, and `eval_dataset` names other data",
            hint="Leave one of the two out.",
        )
    started = time.monotonic()
    report = PreparationReport(cutoff_len=options.cutoff_len)
    encoder = BatchEncoder(
        renderer=request.renderer,
        media=request.media,
        cutoff_len=options.cutoff_len,
        truncation=options.truncation,
        train_on_prompt=options.train_on_prompt,
        mask_history=options.mask_history,
        strict=request.settings.get("on_bad_row", "error") == "error",
    )
    train_tables = [_encode(loaded, "train", encoder, options, report) for loaded in request.train]
    eval_tables = [_encode(loaded, "eval", encoder, options, report) for loaded in request.eval]
    train, validation = _split(train_tables, options.val_size, request.seed)
    evaluation: Any = validation
    if eval_tables and options.eval_on_each_dataset:
        names = [loaded.entry.name for loaded in request.eval]
        evaluation = {name: _usable([table]) for name, table in zip(names, eval_tables, strict=True)}
    elif eval_tables:
        evaluation = _usable(eval_tables)
    _count_splits(report, train, evaluation)
    report.seconds = time.monotonic() - started
    return Prepared(train, evaluation, report)


def _encode(
    loaded: LoadedDataset,
    split: str,
    encoder: BatchEncoder,
    options: PrepareOptions,
    report: PreparationReport,
) -> pa.Table:
    """All rows of one dataset, encoded, those that cannot be used among them; counted in `report`."""
    import pyarrow as pa

    rows = loaded.rows
    if not hasattr(rows, "num_rows"):
        raise DataError(
            f"dataset {loaded.entry.name!r} is a stream; only datasets of known length are supported"
        )
    if (options.preprocessing_num_workers or 1) > 1 and rows.num_rows:
        table = _encode_in_processes(rows, encoder, options)
    else:
        batches = list(_encode_here(loaded.entry.name, rows, encoder, options))
        schema = encoded_features().arrow_schema
        table = pa.concat_tables(batches) if batches else schema.empty_table()
    counts = _counted(table, SampleCounts(loaded.entry.name, loaded.report, split))
    report.datasets.append(counts)
    if counts.encoded == 0:
        first = "\n".join(f"  {rejection}" for rejection in counts.positions)
        raise DataError(
            f"no sample of dataset {loaded.entry.name!r} can be used\n{first}",
            hint="Is `cutoff_len` long enough, and does every row have a reply?",
        )
    return table


def _encode_here(
    name: str, rows: datasets.Dataset, encoder: BatchEncoder, options: PrepareOptions
) -> Iterator[pa.Table]:
    with Progress(f"encode {name}", rows.num_rows) as progress:
        for batch in rows.with_format("arrow").iter(batch_size=options.preprocessing_batch_size):
            yield encoder(batch)
            progress.advance(batch.num_rows)


def _encode_in_processes(rows: datasets.Dataset, encoder: BatchEncoder, options: PrepareOptions) -> pa.Table:
    encoded = rows.with_format("arrow").map(
        encoder,
        batched=True,
        batch_size=options.preprocessing_batch_size,
        num_proc=min(options.preprocessing_num_workers or 1, rows.num_rows),
        remove_columns=rows.column_names,
        features=encoded_features(),
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint=uuid.uuid4().hex[:16],
        desc="encode",
    )
    return encoded.with_format("arrow")[:]


def _counted(table: pa.Table, counts: SampleCounts) -> SampleCounts:
    """`counts`, filled with what happened to the rows of `table`."""
    import pyarrow.compute as pc

    usable = pc.is_null(table["reason"])
    counts.encoded = pc.sum(usable).as_py() or 0
    counts.tokens = pc.sum(pc.list_value_length(table["input_ids"])).as_py() or 0
    counts.supervised = pc.sum(table["supervised"]).as_py() or 0
    counts.dropped = pc.sum(table["dropped"]).as_py() or 0
    counts.truncated = pc.sum(pc.greater(table["dropped"], 0)).as_py() or 0
    refused = table.filter(pc.invert(usable)).select(["origin", "reason", "detail"])
    for row in refused.to_pylist():
        origin, reason = row["origin"], row["reason"]
        full = f"{reason}: {row['detail']}"
        counts.reject(Rejection(origin["file"], origin["row"], origin["line"], full), reason)
    return counts


def _split(
    tables: list[pa.Table], val_size: float, seed: int
) -> tuple[datasets.Dataset | None, datasets.Dataset | None]:
    """Training samples, and those that `val_size` takes for evaluation.

    Which rows those are is LLaMA-Factory's choice: `datasets` splits all rows, shuffled with the
    seed, before those that cannot be used are left out.
    """
    if not tables:
        return None, None
    if not val_size:
        return _usable(tables), None
    from datasets import Dataset

    rows = sum(table.num_rows for table in tables)
    size = int(val_size) if val_size > 1 else val_size
    if math.ceil(size if val_size > 1 else size * rows) >= rows:
        raise TkError(
            f"`val_size: {val_size:g}` leaves none of the {rows:,} rows to train on",
            hint="Take a smaller number, or a share such as 0.1.",
        )
    order = Dataset.from_dict({"row": range(rows)}).train_test_split(test_size=size, seed=seed)
    return _usable(tables, order["train"]["row"][:]), _usable(tables, order["test"]["row"][:])


def _usable(tables: list[pa.Table], order: list[int] | None = None) -> datasets.Dataset:
    """The samples that can be used, in the order of `order`, with the columns that have content."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset, DatasetInfo, Features

    table = pa.concat_tables(tables)
    usable = pc.is_null(table["reason"])
    features = encoded_features()
    unused = ["reason", "detail", "supervised", "dropped"]
    if table["weights"].null_count == table.num_rows:
        unused.append("weights")
    unused += [name for name in MEDIA if not pc.sum(pc.list_value_length(table[name])).as_py()]
    kept = Features({name: kind for name, kind in features.items() if name not in unused})
    info, fingerprint = DatasetInfo(features=kept), uuid.uuid4().hex[:16]
    if order is None:
        table = table.filter(usable) if pc.sum(usable).as_py() < table.num_rows else table
        return Dataset(table.select(list(kept)).cast(kept.arrow_schema), info=info, fingerprint=fingerprint)
    whole = Dataset(table.select(list(kept)).cast(kept.arrow_schema), info=info, fingerprint=fingerprint)
    flags = usable.to_pylist()
    return whole.select([row for row in order if flags[row]])


def _count_splits(report: PreparationReport, train: Any, evaluation: Any) -> None:
    if train is not None:
        report.splits["training"] = len(train)
    if evaluation is not None:
        parts = evaluation.values() if isinstance(evaluation, dict) else [evaluation]
        report.splits["evaluation"] = sum(map(len, parts))
    empty = [name for name, count in report.splits.items() if count == 0]
    if empty:
        raise DataError(f"no sample for {empty[0]} can be used", hint="Raise `val_size` or `cutoff_len`.")

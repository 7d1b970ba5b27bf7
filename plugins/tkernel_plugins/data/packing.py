"""Several samples in one row, so that little of a batch is padding."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.options import PrepareOptions

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import pyarrow as pa

PACKABLE = ("supervised", "text")
"""The kinds of rows that can be joined: samples of the others come in pairs, or are prompts."""

_MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True)
class Packing:
    """How the samples of a run are joined."""

    room: int
    """Most tokens in a row."""
    separate: bool = False
    """Whether each sample sees only itself (`neat_packing`)."""
    blocks: bool = False
    """Rows of text: cut one stream of tokens into rows of exactly `room`, instead of joining whole samples."""
    padded: int | None = None
    """The length to which the collator pads rows; None where every row is full."""
    bos: int | None = None
    """The id that LLaMA-Factory writes over the first token of each block, for tokenizers that add one."""

    @property
    def encode_len(self) -> int | None:
        """`cutoff_len` of the samples to be joined; None leaves them whole."""
        return None if self.blocks else self.room


def packing_of(options: PrepareOptions, rows: str, tokenizer: Any = None) -> Packing | None:
    """How samples of the kind `rows` are joined; None for one sample a row.

    LLaMA-Factory's rules: text is packed unless `packing` is false; `neat_packing` implies packing; where
    packing is asked for, rows hold one token less than `cutoff_len` and, if they are no blocks, are padded
    to `cutoff_len`.

    Raises:
        TkError: rows of this kind cannot be joined.
    """
    asked = bool(options.packing or options.neat_packing)
    if rows not in PACKABLE:
        if asked or options.padding_free:
            raise TkError(
                f"rows of the kind {rows} cannot be packed: samples of this stage come in pairs, or are prompts",
                hint="Leave out `packing`, `neat_packing` and `padding_free`.",
            )
        return None
    if rows == "supervised":
        if not asked:
            return None
        return Packing(options.cutoff_len - 1, options.neat_packing, padded=options.cutoff_len)
    if options.packing is False or options.padding_free:
        return None
    bos = tokenizer.bos_token_id if getattr(tokenizer, "add_bos_token", False) else None
    room = options.cutoff_len - 1 if asked else options.cutoff_len
    return Packing(room, options.neat_packing, blocks=True, bos=bos)


def knapsacks(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which samples go together: the positions in `lengths`, pack by pack, each position once.

    One pack after the other takes the longest sample that still fits, and of equal ones the last, until
    none fits: LLaMA-Factory's greedy knapsack, whose packs are those of first fit decreasing. Takes
    O(n log n), about 2 s for a million samples.

    Raises:
        ValueError: a sample is longer than `room`.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        waiting[length].append(position)
    distinct = sorted(waiting)
    if distinct and distinct[-1] > room:
        raise ValueError(f"a sample has {distinct[-1]:,} tokens and a pack has room for {room:,}")
    # shorter[i + 1] leads to the longest length at or below distinct[i] of which samples wait; 0 is none.
    shorter = list(range(len(distinct) + 1))
    packs: list[list[int]] = []
    left = len(lengths)
    while left:
        pack, free = [], room
        while index := _root(shorter, bisect_right(distinct, free)):
            length = distinct[index - 1]
            pack.append(waiting[length].pop())
            if not waiting[length]:
                shorter[index] = index - 1
            free -= length
        packs.append(pack)
        left -= len(pack)
    return packs


def _root(parents: list[int], index: int) -> int:
    """Where the chain of parents from `index` ends; halves the chain on the way."""
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def pack(samples: pa.Table, packing: Packing) -> pa.Table:
    """Packed rows of one batch of encoded samples.

    Args:
        samples: usable samples with `input_ids`, `labels`, `origin` and, where the data has them,
            `weights` and media; other columns are left out.
        packing: see `packing_of`.

    Returns:
        Rows with those columns, joined; instead of `origin`, `lengths` (the tokens of each sample, in
        order: their sum is that of `input_ids`, for nothing is padded here) and `origins`. A text that
        runs over the end of a block is two samples in two rows. What remains of a batch of text after its
        last whole block is left out: the caller counts it as the difference in tokens.

    Raises:
        DataError: a sample is longer than a row, or the batch holds more tokens than Arrow can index.
    """
    import pyarrow.compute as pc

    lengths = pc.list_value_length(samples["input_ids"]).to_numpy().astype("int64")
    if lengths.sum() > _MOST_TOKENS:
        raise DataError(
            f"a batch of {len(lengths):,} rows has {lengths.sum():,} tokens, too many to be packed at once",
            hint="Lower `preprocessing_batch_size`.",
        )
    if packing.blocks:
        return _blocks(samples, lengths, packing)
    if lengths.max(initial=0) > packing.room:
        origin = samples["origin"][int(lengths.argmax())].as_py()
        raise DataError(
            f"{origin['file']} row {origin['row']}: the sample has {lengths.max():,} tokens and a packed row "
            f"has room for {packing.room:,}",
            hint="Raise `cutoff_len`, or choose a `truncation` that keeps to it.",
        )
    return _packs(samples, lengths, packing)


def _packs(samples: pa.Table, lengths: np.ndarray, packing: Packing) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    packs = knapsacks(lengths.tolist(), packing.room)
    order = np.fromiter((position for pack in packs for position in pack), dtype=np.int64, count=len(lengths))
    ordered, lengths = samples.take(pa.array(order)), lengths[order]
    ends = _offsets([len(pack) for pack in packs])
    tokens = _offsets(lengths)[ends]
    columns = {name: _lists(_one(ordered[name]).flatten(), tokens) for name in ("input_ids", "labels")}
    if "weights" in samples.column_names:
        columns["weights"] = _lists(_whole_weights(_one(ordered["weights"]), lengths), tokens)
    for name in MEDIA:
        if name in samples.column_names:
            media = _one(ordered[name])
            counts = pc.fill_null(pc.list_value_length(media), 0).to_numpy()
            columns[name] = _lists(media.flatten(), _offsets(counts)[ends])
    columns["lengths"] = _lists(pa.array(lengths.astype(np.int32)), ends)
    columns["origins"] = _lists(_one(ordered["origin"]), ends)
    return pa.table(columns)


def _blocks(samples: pa.Table, lengths: np.ndarray, packing: Packing) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    borders = np.arange(lengths.sum() // packing.room + 1) * packing.room
    text_ends = np.cumsum(lengths)
    # A piece ends where a text ends and where a block ends.
    piece_ends = np.union1d(text_ends[text_ends <= borders[-1]], borders)
    piece_ends = piece_ends[piece_ends > 0]
    per_block = np.searchsorted(piece_ends, borders, side="right")
    text_of = np.searchsorted(text_ends, piece_ends, side="left")
    columns = {}
    for name in ("input_ids", "labels"):
        stream = _one(samples[name]).flatten().to_numpy()[: borders[-1]]
        if packing.bos is not None:
            stream = stream.copy()
            stream[borders[:-1]] = packing.bos
        columns[name] = _lists(pa.array(stream), borders)
    columns["lengths"] = _lists(pa.array(np.diff(piece_ends, prepend=0).astype(np.int32)), per_block)
    columns["origins"] = _lists(_one(samples["origin"].take(pa.array(text_of))), per_block)
    return pa.table(columns)


def _offsets(counts: Any) -> np.ndarray:
    """Where each list of `counts` values begins, and where the last one ends."""
    import numpy as np

    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def _lists(values: pa.Array, offsets: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype("int32")), values)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _whole_weights(weights: pa.Array, lengths: np.ndarray) -> pa.Array:
    """The weight of every token, 1 in the samples that have none."""
    import numpy as np
    import pyarrow as pa

    whole = np.ones(lengths.sum(), dtype=np.float32)
    whole[np.repeat(weights.is_valid().to_numpy(zero_copy_only=False), lengths)] = (
        weights.flatten().to_numpy()
    )
    return pa.array(whole)


@dataclass(frozen=True)
class PackedCounts:
    """How well rows are filled."""

    rows: int
    samples: int
    tokens: int
    capacity: int
    """Tokens that the collator makes of the rows, padding included."""

    @property
    def efficiency(self) -> float:
        """The share of a batch that is no padding, 0 to 1."""
        return self.tokens / self.capacity if self.capacity else 0.0


def packed_counts(rows: datasets.Dataset | pa.Table, packing: Packing) -> PackedCounts:
    """Counts of packed rows; reads `lengths` alone."""
    import pyarrow.compute as pc

    table = rows.select_columns(["lengths"]).with_format("arrow")[:] if hasattr(rows, "with_format") else rows
    lengths = table["lengths"]
    return PackedCounts(
        rows=len(lengths),
        samples=pc.sum(pc.list_value_length(lengths)).as_py() or 0,
        tokens=pc.sum(pc.list_flatten(lengths)).as_py() or 0,
        capacity=len(lengths) * (packing.padded or packing.room),
    )

"""Conversations to samples all at once: those that fit, with labels and nothing else to take care of.

Most rows are of this kind, and an object for each token would cost as much as the tokens themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkernel.rendering import Flat
from tkernel_plugins.data.samples import IGNORED, origins_of

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import pyarrow as pa


def plain_samples(
    flat: Flat, rows: pa.Table, features: datasets.Features, *, cutoff_len: int, train_on_prompt: bool
) -> tuple[pa.Table, np.ndarray]:
    """The samples of the conversations in `flat`, which are `rows`, and whether each is right as it is.

    It is not if it is longer than `cutoff_len`, has nothing to learn, or weights.
    """
    import numpy as np
    import pyarrow as pa

    ids = np.frombuffer(flat.ids, dtype=np.int32)
    starts, turns = np.asarray(flat.starts), np.asarray(flat.turns)
    trained = np.asarray(flat.trained, dtype=bool)
    offsets = starts[turns].astype(np.int32)
    learned = _learned(flat, starts, trained, train_on_prompt)
    labels = np.where(learned, ids, np.int32(IGNORED))
    if flat.end is not None:
        ended = starts[:-1][np.asarray(flat.ended, dtype=bool)]
        labels[ended], learned[ended] = flat.end, True
    counts = _counted(learned, offsets[:-1], offsets[1:])
    # Nothing predicts the first token.
    first = _counted(learned, offsets[:-1], np.minimum(offsets[:-1] + 1, len(ids)))
    weighted = _counted(np.asarray(flat.weights) != 1.0, turns[:-1], turns[1:])
    plain = (np.diff(offsets) <= cutoff_len) & (counts > first) & (weighted == 0)
    columns = {
        "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
        "labels": pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels)),
        "origin": rows["origin"] if "origin" in rows.column_names else pa.array(origins_of(rows)),
        "supervised": pa.array(counts),
    }
    return _table(columns, len(counts), features), plain


def _learned(flat: Flat, starts: np.ndarray, trained: np.ndarray, train_on_prompt: bool) -> np.ndarray:
    """Whether each token is learned: of replies those that are trained, of prompts all or none."""
    import numpy as np

    middles = np.asarray(flat.middles)
    lengths = np.stack([middles - starts[:-1], starts[1:] - middles], axis=1)
    flags = np.stack([np.full(len(trained), train_on_prompt), trained], axis=1)
    learned: np.ndarray = np.repeat(flags.ravel(), lengths.ravel())
    return learned


def _counted(flags: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """How many flags are set in each stretch."""
    import numpy as np

    before = np.concatenate([[0], np.cumsum(flags)])
    counts: np.ndarray = before[stops] - before[starts]
    return counts


def _table(columns: dict[str, Any], rows: int, features: datasets.Features) -> pa.Table:
    """`columns`, and the others as they are for a sample that can be used: zero, null or an empty list."""
    import numpy as np
    import pyarrow as pa

    arrays, schema = [], features.arrow_schema
    for field in schema:
        if field.name in columns:
            arrays.append(columns[field.name].cast(field.type))
        elif pa.types.is_integer(field.type):
            arrays.append(pa.array(np.zeros(rows), field.type, safe=False))
        elif pa.types.is_list(field.type) and field.name != "weights":
            nothing = pa.array([], field.type.value_type)
            arrays.append(
                pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), nothing).cast(field.type)
            )
        else:
            arrays.append(pa.nulls(rows, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)

"""How long prepared samples are, counted without decoding a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

GROUPS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen_input_ids", "rejected_input_ids"),),
    "feedback": (("input_ids",), ("kl_input_ids",)),
}
"""Kind of rows -> columns of ids that are padded to one length; of all other kinds `input_ids` alone."""

_BATCH = 10_000


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens of the samples of one split.

    `samples`: int64 of shape (samples,), of pairs the longer side. `files`: the file of each. `learned` and
    `tokens` count labels and tokens (of feedback without the replies of other rows). `rows`: one array of shape
    (rows, columns) for each group of columns that is padded together; a packed row holds several samples.
    """

    samples: np.ndarray[Any, Any]
    files: list[str]
    learned: int
    tokens: int
    rows: tuple[np.ndarray[Any, Any], ...]
    packed: bool
    stream: bool = False

    @property
    def longest(self) -> np.ndarray[Any, Any]:
        """The longest sequence of each row, of shape (rows,)."""
        import numpy as np

        return np.concatenate(self.rows, axis=1).max(axis=1)  # type: ignore[no-any-return]


def lengths_of(split: Any, kind: str, each: Callable[[int], None] | None = None) -> Lengths:
    """The lengths in a split of prepared samples; a stream is passed over once.

    Args:
        each: called with a number of rows whenever so many are counted.
    """
    import numpy as np

    groups = GROUPS.get(kind, (("input_ids",),))
    samples: list[np.ndarray[Any, Any]] = []
    files: list[str] = []
    rows: list[list[np.ndarray[Any, Any]]] = [[] for _ in groups]
    learned = tokens = 0
    packed = False
    for table in _tables(split):
        for found, columns in zip(rows, groups, strict=True):
            found.append(np.stack([_counts(table[name]) for name in columns], axis=1))
        own = [name for columns in groups for name in columns if not name.startswith("kl_")]
        tokens += sum(int(_counts(table[name]).sum()) for name in own)
        if kind != "prompt":
            learned += sum(_learned(table[name.replace("input_ids", "labels")]) for name in own)
        packed = "lengths" in table.column_names
        if packed:
            samples.append(_flat(table["lengths"]).to_numpy().astype("int64"))
            files += _files(_flat(table["origins"]))
        else:
            samples.append(np.stack([_counts(table[name]) for name in own], axis=1).max(axis=1))
            files += _files(table["origin"].combine_chunks())
        if each is not None:
            each(table.num_rows)
    return Lengths(
        np.concatenate(samples) if samples else np.zeros(0, "int64"),
        files,
        learned,
        tokens,
        tuple(
            np.concatenate(found) if found else np.zeros((0, len(columns)), "int64")
            for found, columns in zip(rows, groups, strict=True)
        ),
        packed,
        stream=not hasattr(split, "num_rows"),
    )


def _tables(split: Any) -> Iterator[pa.Table]:
    import pyarrow as pa

    if hasattr(split, "num_rows"):
        yield from split.with_format("arrow").iter(batch_size=_BATCH)
        return
    samples = iter(split)
    while batch := list(islice(samples, _BATCH)):
        yield pa.Table.from_pylist(batch)


def _counts(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    import pyarrow.compute as pc

    return pc.list_value_length(column).to_numpy().astype("int64")  # type: ignore[no-any-return]


def _learned(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return pc.sum(pc.not_equal(pc.list_flatten(column), -100)).as_py() or 0


def _flat(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow.compute as pc

    return pc.list_flatten(column).combine_chunks()


def _files(origins: Any) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(origins, pa.ChunkedArray):  # combine_chunks gives one for structs
        return [file for chunk in origins.chunks for file in _files(chunk)]
    return list(pc.struct_field(origins, "file").to_pylist())

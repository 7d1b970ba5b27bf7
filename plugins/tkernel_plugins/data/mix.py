"""Several datasets as one: in which order their rows are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tkernel.errors import TkError
from tkernel_plugins.data.canonical import MEDIA

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import pyarrow as pa

STOPPING: Mapping[str, str] = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}
"""`mix_strategy` -> when `datasets.interleave_datasets` stops."""


def merged_order(
    lengths: Sequence[int], strategy: str, probabilities: Sequence[float] | None, seed: int
) -> np.ndarray:
    """Which rows of the datasets laid end to end are taken, in order; int64 of shape (rows,).

    The order is that of `datasets.interleave_datasets` with the same arguments, which LLaMA-Factory calls;
    one dataset is taken as it is. `seed` matters only with `probabilities`.

    Raises:
        TkError: as many `probabilities` as datasets are needed, and each dataset that may be drawn must
            have rows.
    """
    import numpy as np

    if strategy == "concat" or len(lengths) == 1:
        return np.arange(sum(lengths), dtype=np.int64)
    if probabilities is not None and len(probabilities) != len(lengths):
        raise TkError(
            f"`interleave_probs` has {len(probabilities)} numbers for {len(lengths)} datasets",
            hint="Give one number for each dataset, in their order. Evaluation data that are as they are: "
            "`eval_on_each_dataset: true`.",
        )
    import pyarrow as pa
    from datasets import Dataset, interleave_datasets

    # Of the datasets only their lengths matter: their rows' numbers stand for them.
    whole = pa.table({"row": np.arange(sum(lengths), dtype=np.int64)})
    starts = np.cumsum([0, *lengths[:-1]])
    stand_ins = [Dataset(whole.slice(s, n)) for s, n in zip(starts.tolist(), lengths, strict=True)]
    given = None if probabilities is None else list(probabilities)
    stopping: Any = STOPPING[strategy]
    try:
        mixed = interleave_datasets(stand_ins, given, seed, stopping_strategy=stopping)
    except ValueError as error:
        raise TkError(
            f"the datasets cannot be interleaved: {error}", hint="`mix_strategy: concat` takes all rows once."
        ) from None
    indices: Any = mixed._indices  # None where the rows are neighbours, and `datasets` cuts them out
    numbers: np.ndarray = (mixed.data["row"] if indices is None else indices.column(0)).to_numpy()
    return numbers.astype(np.int64)


class MergedRows:
    """Canonical rows of several datasets in one order.

    Args:
        parts: the datasets.
        order: indices over their rows laid end to end; a row may occur again.
    """

    def __init__(self, parts: Sequence[datasets.Dataset], order: np.ndarray) -> None:
        import numpy as np

        self.parts = [part.with_format("arrow") for part in parts]
        self.order = order
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return len(self.order)

    def take(self, positions: slice | np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """The rows at `positions` of the order as one table, and the number of the dataset of each."""
        import numpy as np

        chosen = self.order[positions]
        numbers = np.searchsorted(self.starts, chosen, side="right") - 1
        tables, places = [], []
        for number in np.unique(numbers).tolist():
            of_part = np.flatnonzero(numbers == number)
            tables.append(_rows(self.parts[number], chosen[of_part] - self.starts[number]))
            places.append(of_part)
        if len(tables) == 1:
            return tables[0], numbers
        in_order = np.argsort(np.concatenate(places), kind="stable")
        return _joined(tables).take(in_order), numbers


def _rows(part: datasets.Dataset, indices: np.ndarray) -> pa.Table:
    """Rows of one dataset; neighbours are cut out without a copy."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 == len(indices) and (indices[1:] > indices[:-1]).all():
        return part[first : last + 1]
    return part[indices.tolist()].combine_chunks()  # `datasets` gives each row a chunk of its own


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of different datasets as one: columns that one lacks are null, media are references in all."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid:
        pass  # Their schemas differ, so the rows are joined as Python objects.
    rows = [row for table in tables for row in table.to_pylist()]
    for name in MEDIA:
        for row in rows:
            row[name] = [
                item if isinstance(item, dict) else {"path": item, "bytes": None}
                for item in row.get(name) or ()
            ]
    columns = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in columns})

"""What the encoders of all kinds of rows share: Arrow columns, origins, bad rows, and their counting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from tkernel.errors import DataError
from tkernel.types.dataset import Rejection

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

IGNORED = -100

CANNOT_RENDER = "a conversation that the template cannot render"
NOTHING_TO_LEARN = "nothing to learn"
TOO_LONG = "longer than cutoff_len"

Origin = dict[str, Any]
Encoding = TypeVar("Encoding")


def counting_features() -> dict[str, Any]:
    """The columns that every encoder adds for the report.

    `supervised` counts the tokens that are learned, `dropped` those that truncation cut off; `reason` and
    `detail` say why a sample cannot be used, and are null for one that can.
    """
    from datasets import Value

    text, count = Value("string"), Value("int64")
    origin = {"file": text, "row": count, "line": count}
    return {"origin": origin, "supervised": count, "dropped": count, "reason": text, "detail": text}


def origins_of(table: pa.Table) -> list[Origin]:
    """Where the rows came from; rows of a plugin that does not say have no file and are numbered."""
    if "origin" in table.column_names:
        return list(table["origin"].to_pylist())
    return [{"file": "?", "row": number, "line": None} for number in range(table.num_rows)]


def encode_rows(
    encode: Callable[[Sequence[int]], list[Encoding]], origins: Sequence[Origin], strict: bool
) -> list[Encoding | DataError]:
    """The result of `encode` for each row, all at once; if that fails, one by one to find the bad ones.

    Raises:
        DataError: a row cannot be encoded and `strict`; the message names its file and line.
    """
    rows = range(len(origins))
    try:
        return [*encode(rows)]
    except DataError:
        pass  # One of them is bad; one by one it shows which.
    results: list[Encoding | DataError] = []
    for row in rows:
        try:
            results.extend(encode([row]))
        except DataError as error:
            if strict:
                raise DataError(
                    str(rejection(origins[row], error.message)),
                    hint=error.hint or "Mend the row, or leave such rows out with `on_bad_row: drop`.",
                ) from error
            results.append(error)
    return results


def rejection(origin: Origin, reason: str) -> Rejection:
    """A row that is not used, and why."""
    return Rejection(origin["file"], origin["row"], origin["line"], reason)


def refuse_long(places: Sequence[Rejection], truncation: str) -> None:
    """Raise the error of `truncation: error` if there are `places` of samples that are too long."""
    if places and truncation == "error":
        listed = "\n".join(f"  {place}" for place in places[:20])
        more = f"\n  and {len(places) - 20:,} more" if len(places) > 20 else ""
        raise DataError(
            f"{len(places):,} of the samples looked at are longer than `cutoff_len`\n{listed}{more}",
            hint="Raise `cutoff_len`, or choose what to do with long samples: `truncation`.",
        )


def unusable(reason: str, detail: str, dropped: int = 0) -> dict[str, Any]:
    """The counting columns of a sample that cannot be used."""
    return {"supervised": 0, "dropped": dropped, "reason": reason, "detail": detail}


def usable(supervised: int, dropped: int) -> dict[str, Any]:
    """The counting columns of a sample that can be used."""
    return {"supervised": supervised, "dropped": dropped, "reason": None, "detail": None}


def learned(labels: Sequence[int]) -> int:
    """How many labels are learned; none if that is only the first, which no token predicts."""
    count = len(labels) - labels.count(IGNORED)
    return 0 if count == 1 and labels[0] != IGNORED else count


def table_of(columns: Mapping[str, Sequence[Any]], features: datasets.Features) -> pa.Table:
    """Columns of Python values as a table; lists of numbers go through numpy, which takes a third of the time."""
    import pyarrow as pa

    schema = features.arrow_schema
    arrays = [
        list_array(columns[field.name], field.type)
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def list_array(rows: Sequence[Iterable[int]], kind: pa.ListType) -> pa.ListArray:
    """Lists of integers as an Arrow array of type `kind`."""
    import numpy as np
    import pyarrow as pa

    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])  # type: ignore[arg-type]
    values = np.fromiter(
        chain.from_iterable(rows), dtype=kind.value_type.to_pandas_dtype(), count=offsets[-1]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)

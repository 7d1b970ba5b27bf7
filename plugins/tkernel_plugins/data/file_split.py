"""The split of an entry whose rows are in files: all of them, or a part as `datasets` writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.raw import RawRow

_PART = re.compile(r"train(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def part_of(rows: Callable[[], Iterator[RawRow]], entry: DatasetEntry) -> Iterator[RawRow]:
    """The rows of `train`, `train[:100]`, `train[10%:]`, `train[-5:]`; `rows` gives all of them, anew each time.

    Shares of the rows and positions from their end are rounded and counted as `datasets` does; for these
    the rows are read twice.
    """
    part = _PART.fullmatch(entry.split)
    if part is None:
        raise DataError(wrong_split(entry) or "", origin=entry.origin)
    start, stop = part["start"], part["stop"]
    if not any(bound and set(bound) & set("-%") for bound in (start, stop)):
        return islice(rows(), int(start or 0), None if stop is None else int(stop))
    count = sum(1 for _ in rows())
    return islice(rows(), _position(start or "0", count), count if stop is None else _position(stop, count))


def wrong_split(entry: DatasetEntry) -> str | None:
    """What is wrong with the split of an entry, None if nothing is; that of a hub is the hub's to say."""
    if entry.source not in ("file", "cloud") or _PART.fullmatch(entry.split):
        return None
    return (
        f"dataset {entry.name!r} has no split {entry.split!r}: files have the split `train` alone, "
        "or a part of it such as `train[:100]` or `train[10%:]`"
    )


def _position(bound: str, count: int) -> int:
    number = int(bound.rstrip("%"))
    position = round(number * count / 100) if bound.endswith("%") else number
    return min(max(position + count if position < 0 else position, 0), count)

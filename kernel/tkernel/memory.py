"""Objects that a notebook gives instead of names, refused where they are of another kind than is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tkernel.errors import UsageError

ROWS = "a list of dicts, or a `datasets.Dataset`"


@dataclass(frozen=True)
class InMemory:
    """A model, data, ...; None where the settings name them.

    Raises:
        UsageError: something is not what its name says.
    """

    model: Any = None
    tokenizer: Any = None
    processor: Any = None
    train_dataset: Any = None
    eval_dataset: Any = None

    def __post_init__(self) -> None:
        if self.model is not None and not hasattr(self.model, "config"):
            raise wrong(
                "model", self.model, "a `transformers` model", "Write a path as `model_name_or_path`."
            )
        for name in ("tokenizer", "processor"):
            value = getattr(self, name)
            if value is not None and not hasattr(value, "decode"):
                raise wrong(name, value, f"a `transformers` {name}")
        if self.model is None and (self.tokenizer is not None or self.processor is not None):
            hint = "Give `model=...` too, or leave both to `model_name_or_path`."
            raise UsageError("a tokenizer or processor is given and its model is not", hint=hint)


def rows_in_memory(name: str, data: Any) -> tuple[Any, tuple[str, ...]]:
    """Rows (a list, if they came from a generator) and the columns of the first one.

    Raises:
        UsageError: they are no rows, or there are none.
    """
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        several = isinstance(data, Mapping) and all(hasattr(part, "column_names") for part in data.values())
        hint = f"Give one of its parts: {', '.join(map(repr, data))}." if several and data else None
        raise wrong(name, data, ROWS, hint)
    rows = list(data) if isinstance(data, Iterator) else data  # its columns are read before its rows
    columns = getattr(rows, "column_names", None)
    if columns is None:
        first = next(iter(rows), None)
        if first is None:
            raise UsageError(f"{name} has no rows")
        if not isinstance(first, Mapping):
            raise wrong(f"the first row of {name}", first, "a dict")
        columns = first
    return rows, tuple(map(str, columns))


def listed(name: str, values: Any, what: str) -> list[Any]:
    """Several values as a list; a text is one of them."""
    if isinstance(values, str):
        return [values]
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise wrong(name, values, f"a list of {what}")
    return list(values)


def wrong(name: str, value: Any, expected: str, hint: str | None = None) -> UsageError:
    """The error for a value of another kind than `expected`."""
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return UsageError(f"{name} is {article} {kind}, and {expected} is wanted", hint=hint)

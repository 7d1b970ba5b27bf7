"""What is looked at: a prepared sample, its tokens, and where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IGNORED = -100

Span = tuple[int, int, int | None, str]
"""`(start, stop, turn, part)`: turns count from 1, and are None where there are none; part is `prompt`,
`reply` or `text`."""


@dataclass(frozen=True)
class Cut:
    """Tokens that truncation took out, before position `before` of what is left."""

    before: int
    turn: int | None
    part: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Strip:
    """One sequence of tokens: a sample, one side of a pair, or one sample of a packed row.

    `labels` (-100 where nothing is learned) and `weights` are as long as `ids`; `labels` is empty where the
    stage has none, in a prompt. `start` is the position of the first token in its row.
    """

    name: str
    """The column without `_input_ids`: `input`, `chosen`, `rejected`, `kl`, `prompt`, `reply`."""
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    spans: tuple[Span, ...] = ()
    cut: tuple[Cut, ...] = ()
    origin: Mapping[str, Any] | None = None
    dataset: str | None = None
    start: int = 0

    @property
    def learned(self) -> int:
        """How many labels there are."""
        return len(self.labels) - self.labels.count(IGNORED)

    @property
    def lost(self) -> int:
        """How many tokens truncation took out."""
        return sum(len(cut.ids) for cut in self.cut)


@dataclass(frozen=True)
class Sample:
    """A row of the prepared data, `index` in the order of preparation (before any shuffling)."""

    index: int
    split: str
    strips: tuple[Strip, ...]
    packed: bool = False
    label: bool | None = None
    """Of feedback: whether the reply is liked."""

    @property
    def lost(self) -> int:
        """How many tokens truncation took out."""
        return sum(strip.lost for strip in self.strips)


def place_of(origin: Mapping[str, Any] | None) -> str:
    """`file:line`, or `file row N` where files have no lines."""
    if origin is None:
        return "unknown origin"
    line = origin.get("line")
    return f"{origin['file']}:{line}" if line is not None else f"{origin['file']} row {origin['row']}"

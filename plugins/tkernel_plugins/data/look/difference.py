"""How two templates render the same row: token by token, label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from tkernel.errors import DataError
from tkernel_plugins.data.look.pieces import Pieces
from tkernel_plugins.data.look.sample import IGNORED
from tkernel_plugins.data.look.whole import Whole, WholeRows

Kind = Literal["same", "removed", "added", "labels"]


@dataclass(frozen=True)
class Side:
    """What one template makes of a conversation; `error` says why it makes nothing."""

    template: str
    whole: Whole
    pieces: tuple[str, ...]
    learned: tuple[bool, ...]
    error: str | None = None


@dataclass(frozen=True)
class Change:
    """Tokens `first` of the first template against tokens `second` of the other, each `(start, stop)`.

    `removed` are in the first alone, `added` in the second alone; `labels` are the same tokens, of which one
    template learns what the other does not; `same` are equal in both.
    """

    kind: Kind
    first: tuple[int, int]
    second: tuple[int, int]


@dataclass(frozen=True)
class Difference:
    """Two sides and all that changes from one to the other, in order and without gaps."""

    first: Side
    second: Side
    changes: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether both templates give the same tokens and learn the same of them, or neither renders it."""
        if self.first.error or self.second.error:
            return self.first.error == self.second.error
        return all(change.kind == "same" for change in self.changes)

    @property
    def begins(self) -> Change | None:
        """The first change; None if there is none."""
        return next((change for change in self.changes if change.kind != "same"), None)

    @property
    def character(self) -> int:
        """How many characters of text come before the first change."""
        stop = self.begins.first[0] if self.begins is not None else len(self.first.pieces)
        return sum(map(len, self.first.pieces[:stop]))


def side_of(template: str, rows: WholeRows, row: Mapping[str, Any], name: str, pieces: Pieces) -> Side:
    """A row as one template renders it; `name` is that of the strip."""
    try:
        whole = rows.encode([row])[0][name]
    except DataError as error:
        return Side(template, Whole([], [], ()), (), (), error.message)
    learned = tuple(label != IGNORED for label in whole.labels)
    return Side(template, whole, tuple(map(pieces, whole.ids)), learned)


def compare(first: Side, second: Side) -> Difference:
    """The changes between two sides. Tokens are compared by their text: ids that a template adds may differ."""
    one, two = first.pieces, second.pieces
    start = 0
    while start < min(len(one), len(two)) and one[start] == two[start]:
        start += 1
    end = 0
    while end < min(len(one), len(two)) - start and one[-1 - end] == two[-1 - end]:
        end += 1
    middle = SequenceMatcher(None, one[start : len(one) - end], two[start : len(two) - end], autojunk=False)
    changes = [*_equal(first, second, 0, 0, start)]
    for kind, a, b, c, d in middle.get_opcodes():
        if kind == "equal":
            changes += _equal(first, second, start + a, start + c, b - a)
            continue
        if b > a:
            changes.append(Change("removed", (start + a, start + b), (start + c, start + c)))
        if d > c:
            changes.append(Change("added", (start + b, start + b), (start + c, start + d)))
    changes += _equal(first, second, len(one) - end, len(two) - end, end)
    return Difference(first, second, tuple(changes))


def _equal(first: Side, second: Side, a: int, b: int, length: int) -> list[Change]:
    """Equal tokens from `a` and `b` on, in stretches that are learned alike or not."""
    changes: list[Change] = []
    begin = 0
    for offset in range(1, length + 1):
        alike = first.learned[a + begin] == second.learned[b + begin]
        if offset == length or (first.learned[a + offset] == second.learned[b + offset]) != alike:
            kind: Kind = "same" if alike else "labels"
            changes.append(Change(kind, (a + begin, a + offset), (b + begin, b + offset)))
            begin = offset
    return changes

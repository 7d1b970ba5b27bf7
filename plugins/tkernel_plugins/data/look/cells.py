"""Tokens of a sample in the pieces in which they are drawn, on a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tkernel_plugins.data.look.pieces import Pieces, visible
from tkernel_plugins.data.look.sample import IGNORED, Cut, Sample, Strip

REPEATED = 5
"""So many equal tokens in a row are drawn as one cell."""


@dataclass(frozen=True)
class Cell:
    """One token, or several equal ones in a row: `count` of them from `position` on.

    `label` is None where the stage has no labels, and -100 where nothing is learned.
    """

    position: int
    id: int
    piece: str
    label: int | None
    weight: float
    count: int = 1

    @property
    def learned(self) -> bool:
        """Whether the model learns to predict something here."""
        return self.label is not None and self.label != IGNORED


@dataclass(frozen=True)
class Part:
    """The cells of one turn's prompt or reply, as many as the page shows: tokens `start` to `stop`."""

    start: int
    stop: int
    turn: int | None
    part: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """`turn 2 reply`, or the part alone where there are no turns."""
        return title_of(self.turn, self.part)

    @property
    def state(self) -> str:
        """Whether it is learned, and with which weight."""
        if not self.cells or all(cell.label is None for cell in self.cells):
            return ""
        learned = [cell for cell in self.cells if cell.learned]
        if not learned:
            return "not learned"
        weights = {cell.weight for cell in learned}
        weight = f", weight {weights.pop():g}" if weights != {1.0} and len(weights) == 1 else ""
        return ("learned" if len(learned) == len(self.cells) else "partly learned") + weight


@dataclass(frozen=True)
class Page:
    """The tokens `start` to `stop` of a sample, counted over all its strips."""

    sample: Sample
    start: int
    stop: int
    total: int
    number: int
    pages: int

    def window(self, strip_start: int, length: int) -> tuple[int, int]:
        """The part of a strip that is on this page, given where its tokens start in the count."""
        return (
            min(max(self.start - strip_start, 0), length),
            min(max(self.stop - strip_start, 0), length),
        )

    def strips(self) -> Iterator[tuple[int, Strip, int, int]]:
        """`(number, strip, start, stop)` of the strips that have tokens on this page."""
        counted = 0
        for number, strip in enumerate(self.sample.strips):
            start, stop = self.window(counted, len(strip.ids))
            counted += len(strip.ids)
            if stop > start or not strip.ids:
                yield number, strip, start, stop


def page_of(sample: Sample, size: int, number: int) -> Page:
    """Page `number` (from 1) of a sample of which `size` tokens fit on one; 0 is all of them."""
    total = sum(len(strip.ids) for strip in sample.strips)
    size = size or max(total, 1)
    pages = max(-(-total // size), 1)
    number = min(max(number, 1), pages)
    return Page(sample, (number - 1) * size, min(number * size, total), total, number, pages)


def samples_in(sample: Sample) -> str:
    """How many samples a packed row holds, in words."""
    count = len(sample.strips)
    return f"{count:,} sample{'s' if count != 1 else ''}"


def title_of(turn: int | None, part: str) -> str:
    """`turn 2 reply`, or the part alone where there are no turns."""
    return part if turn is None else f"turn {turn} {part}"


def drawn(
    strip: Strip, start: int, stop: int, pieces: Pieces, *, spaces: bool = True
) -> Iterator[Part | Cut]:
    """What is drawn of the tokens `start` to `stop` of a strip: its parts, and what was cut where it was cut."""
    cuts = {cut.before: [c for c in strip.cut if c.before == cut.before] for cut in strip.cut}
    for first, last, turn, part in strip.spans:
        edges = sorted({first, last, *(before for before in cuts if first < before < last)})
        for left, right in pairwise(edges):
            if start <= left < stop:
                yield from cuts.get(left, ())
            left, right = max(left, start), min(right, stop)
            if left < right:
                yield Part(left, right, turn, part, tuple(_cells(strip, left, right, pieces, spaces)))
    if stop == len(strip.ids):
        yield from cuts.get(stop, ())


def _cells(strip: Strip, start: int, stop: int, pieces: Pieces, spaces: bool) -> Iterator[Cell]:
    position = start
    while position < stop:
        token = strip.ids[position]
        label = strip.labels[position] if strip.labels else None
        weight = 1.0 if strip.weights is None else strip.weights[position]
        end = position + 1
        while end < stop and strip.ids[end] == token and _same(strip, position, end):
            end += 1
        count = end - position if end - position >= REPEATED else 1
        yield Cell(position, token, visible(pieces(token), spaces=spaces), label, weight, count)
        position += count


def _same(strip: Strip, first: int, second: int) -> bool:
    labels = not strip.labels or (strip.labels[first] == IGNORED) == (strip.labels[second] == IGNORED)
    return labels and (strip.weights is None or strip.weights[first] == strip.weights[second])

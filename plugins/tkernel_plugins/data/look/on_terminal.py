"""Samples as lines for a terminal, or as plain text where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence

from tkernel_plugins.data.look.cells import Cell, Page, Part, drawn, samples_in, title_of
from tkernel_plugins.data.look.pieces import Pieces, visible
from tkernel_plugins.data.look.sample import Cut, Strip, place_of

Line = Sequence[tuple[str, str]]
"""Stretches of text, each with the name of its style (a key of `STYLES`)."""

STYLES = {
    "": "",
    "head": "bold",
    "note": "dim",
    "number": "dim",
    "learned": "bold green",
    "weighted": "bold yellow",
    "ignored": "",
    "cut": "red",
    "added": "green",
    "removed": "red",
}

_WIDEST = 40  # of a piece; longer ones are shortened
_LONGEST = 300  # of a text that was cut


def show(lines: Iterable[Line]) -> None:
    """Print lines: with colour on a terminal (unless `NO_COLOR` is set), plain elsewhere."""
    if not sys.stdout.isatty():
        for line in lines:
            # A pipe may be in an encoding that lacks a character.
            text = "".join(text for text, _ in line).rstrip()
            encoding = sys.stdout.encoding or "utf-8"
            print(text.encode(encoding, errors="backslashreplace").decode(encoding))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*((text, STYLES[style]) for text, style in line)), soft_wrap=True)


def width() -> int:
    """Columns to fill: those of the terminal; where there is none, `COLUMNS`, or else 100."""
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size((100, 24)).columns
    else:
        given = os.environ.get("COLUMNS", "")
        columns = int(given) if given.isdigit() else 100
    return max(columns, 20)


def page_lines(
    page: Page, pieces: Pieces, columns: int, of: int | None, page_hint: str = ""
) -> Iterator[Line]:
    """A page of a sample: what it is, and each part with its tokens, ids and labels.

    Args:
        of: how many samples the split has, None if that is not known.
        page_hint: what to type to see the next page, without the number.
    """
    sample = page.sample
    known = f" of {of:,}" if of is not None else ""
    liked = {None: "", True: "; the reply is liked", False: "; the reply is not liked"}[sample.label]
    purpose = "training" if sample.split == "train" else "evaluation"
    packed = f", {samples_in(sample)} packed" if sample.packed else ""
    yield [(f"sample {sample.index:,}{known} for {purpose}: {page.total:,} tokens{packed}{liked}", "head")]
    for number, strip, start, stop in page.strips():
        yield from _strip_lines(number, strip, start, stop, page, pieces, columns)
    if page.pages > 1:
        more = f"; the next: {page_hint} --page {page.number + 1}" if page.number < page.pages else ""
        shown = f"tokens {page.start:,} to {page.stop - 1:,} of {page.total:,}"
        yield [(f"page {page.number} of {page.pages}, {shown}{more}", "note")]


def _strip_lines(
    number: int, strip: Strip, start: int, stop: int, page: Page, pieces: Pieces, columns: int
) -> Iterator[Line]:
    several = len(page.sample.strips) > 1
    if page.sample.packed:
        end = strip.start + len(strip.ids) - 1
        yield [
            (
                f"-- {number + 1} of {len(page.sample.strips)} in the row, tokens {strip.start:,} to {end:,} --",
                "head",
            )
        ]
    elif several:
        yield [(f"-- {strip.name} --", "head")]
    learned = f", {strip.learned:,} learned" if strip.labels else ""
    lost = f", {strip.lost:,} cut off" if strip.cut else ""
    dataset = (
        f" (dataset {visible(strip.dataset)})"
        if strip.dataset not in (None, (strip.origin or {}).get("file"))
        else ""
    )
    whose = "; the reply of another row" if strip.name == "kl" else ""
    where = visible(place_of(strip.origin))
    yield [(f"{where}{dataset}: {len(strip.ids):,} tokens{learned}{lost}{whose}", "")]
    for item in drawn(strip, start, stop, pieces):
        if isinstance(item, Cut):
            yield _cut_line(item, pieces)
            continue
        state = f", {item.state}" if item.state else ""
        yield [(f"{item.title}", "head"), (f", tokens {item.start:,} to {item.stop - 1:,}{state}", "note")]
        yield from _cell_lines(item, columns)


def _cut_line(cut: Cut, pieces: Pieces) -> Line:
    text = shortened(visible(pieces.text(list(cut.ids))), _LONGEST)
    count = f"{len(cut.ids):,} token{'s' if len(cut.ids) != 1 else ''}"
    return [(f"cut off: {count} of {title_of(cut.turn, cut.part)}: {text}", "cut")]


def _cell_lines(part: Part, columns: int) -> Iterator[Line]:
    """Tokens side by side, under each its id; under that its label where that is not plain to see."""
    labels = part.state.startswith("partly") or any(c.learned and c.label != c.id for c in part.cells)
    weights = len({cell.weight for cell in part.cells if cell.learned}) > 1
    row: list[list[str]] = []
    cells: list[Cell] = []
    used = 2
    for cell in part.cells:
        column = _column(cell, labels, weights)
        wide = max(map(_width, column)) + 1
        if row and used + wide > columns:
            yield from _drawn_row(row, cells)
            row, cells, used = [], [], 2
        row.append(column)
        cells.append(cell)
        used += wide
    yield from _drawn_row(row, cells)


def _column(cell: Cell, labels: bool, weights: bool) -> list[str]:
    times = f"×{cell.count:,}" if cell.count > 1 else ""
    column = [shortened(cell.piece, _WIDEST) + times, str(cell.id)]
    if labels:
        column.append(str(cell.label) if cell.learned else "-")
    if weights:
        column.append(f"{cell.weight:g}")
    return column


def _drawn_row(row: list[list[str]], cells: list[Cell]) -> Iterator[Line]:
    if not row:
        return
    widths = [max(map(_width, column)) for column in row]
    for height in range(len(row[0])):
        line: list[tuple[str, str]] = [("  ", "")]
        for column, wide, cell in zip(row, widths, cells, strict=True):
            text = column[height] + " " * (wide - _width(column[height]) + 1)
            line.append((text, _style(cell) if height == 0 else "number"))
        yield line


def _style(cell: Cell) -> str:
    if not cell.learned:
        return "ignored"
    return "learned" if cell.weight == 1.0 else "weighted"


def shortened(text: str, most: int) -> str:
    """`text`, or its start and its end if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


def _width(text: str) -> int:
    """Columns that a terminal needs for `text`."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)

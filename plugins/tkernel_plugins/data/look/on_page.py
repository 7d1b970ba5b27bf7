"""Samples as one HTML file: no script, nothing fetched, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from tkernel_plugins.data.look.cells import Cell, Page, Part, drawn, samples_in, title_of
from tkernel_plugins.data.look.pieces import Pieces, visible
from tkernel_plugins.data.look.sample import Cut, Strip, place_of

_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --back: #fff; --text: #222; --quiet: #6b6b6b; --edge: #ddd; --learned: #c9f0d1; --weighted: #fbe7a8; --cut: #f8cfcf; }}
@media (prefers-color-scheme: dark) {{
:root {{ --back: #161616; --text: #e4e4e4; --quiet: #9a9a9a; --edge: #3a3a3a; --learned: #1d5a2f; --weighted: #6a5311; --cut: #6d2424; }}
}}
body {{ background: var(--back); color: var(--text); font: 15px/1.6 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
h2 {{ font-size: 1.1em; margin: 2em 0 0; border-top: 2px solid var(--edge); padding-top: 1em; }}
h3 {{ font-size: 1em; margin: 1em 0 0; }}
p, h4 {{ margin: .4em 0 .1em; color: var(--quiet); font-weight: normal; font-size: .9em; }}
section {{ border-left: 3px solid var(--edge); padding-left: 1em; margin: 1em 0; }}
div {{ font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
span {{ outline: 1px solid var(--edge); border-radius: 2px; }}
span:hover {{ outline: 2px solid var(--text); }}
.l {{ background: var(--learned); }}
.w {{ background: var(--weighted); }}
.c, del {{ background: var(--cut); }}
ins {{ background: var(--learned); text-decoration: none; }}
i {{ color: var(--quiet); font-style: normal; font-size: .85em; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Each box is a token; its id, label and position are shown when the pointer rests on it.
<span class="l">learned</span> <span class="w">learned with another weight than 1</span> <span>not learned</span> <span class="c">cut off</span></p>
"""


def page_html(title: str, body: Iterable[str]) -> str:
    """The whole file; `body` is HTML, `title` is text."""
    return _HEAD.format(title=escape(visible(title))) + "\n".join(body) + "\n</body>\n</html>\n"


def sample_html(page: Page, pieces: Pieces, of: int | None) -> Iterator[str]:
    """A page of a sample."""
    sample = page.sample
    purpose = "training" if sample.split == "train" else "evaluation"
    known = f" of {of:,}" if of is not None else ""
    packed = f", {samples_in(sample)} packed" if sample.packed else ""
    liked = {None: "", True: "; the reply is liked", False: "; the reply is not liked"}[sample.label]
    yield f"<h2>sample {sample.index:,}{known} for {purpose}: {page.total:,} tokens{packed}{liked}</h2>"
    for number, strip, start, stop in page.strips():
        yield "<section>"
        if sample.packed:
            yield f"<h3>{number + 1} of {len(sample.strips)} in the row</h3>"
        elif len(sample.strips) > 1:
            yield f"<h3>{escape(strip.name)}</h3>"
        yield f"<p>{escape(_described(strip))}</p>"
        for item in drawn(strip, start, stop, pieces, spaces=False):
            yield from _cut_html(item, pieces) if isinstance(item, Cut) else _part_html(item, strip.start)
        yield "</section>"
    if page.pages > 1:
        yield f"<p>page {page.number} of {page.pages}: tokens {page.start:,} to {page.stop - 1:,} of {page.total:,}</p>"


def _described(strip: Strip) -> str:
    learned = f", {strip.learned:,} learned" if strip.labels else ""
    lost = f", {strip.lost:,} cut off" if strip.cut else ""
    dataset = f" (dataset {strip.dataset})" if strip.dataset is not None else ""
    whose = "; the reply of another row" if strip.name == "kl" else ""
    return visible(f"{place_of(strip.origin)}{dataset}: {len(strip.ids):,} tokens{learned}{lost}{whose}")


def _part_html(part: Part, offset: int) -> Iterator[str]:
    state = f", {part.state}" if part.state else ""
    yield f"<h4>{part.title}, tokens {part.start:,} to {part.stop - 1:,}{state}</h4>"
    yield "<div>" + "".join(_cell_html(cell, part, offset) for cell in part.cells) + "</div>"


def _cell_html(cell: Cell, part: Part, offset: int) -> str:
    kind = "" if not cell.learned else ' class="l"' if cell.weight == 1.0 else ' class="w"'
    label = "" if cell.label is None else f" · label {cell.label}"
    weight = f" · weight {cell.weight:g}" if cell.learned and cell.weight != 1.0 else ""
    last = f" to {offset + cell.position + cell.count - 1}" if cell.count > 1 else ""
    title = f"id {cell.id}{label}{weight} · position {offset + cell.position}{last} · {part.title}"
    # A line break is drawn, and made.
    text = escape(cell.piece).replace("⏎", "⏎\n")
    times = f"<i>×{cell.count:,}</i>" if cell.count > 1 else ""
    return f'<span{kind} title="{escape(title)}">{text or "∅"}</span>{times}'


def _cut_html(cut: Cut, pieces: Pieces) -> Iterator[str]:
    yield f"<h4>cut off: {len(cut.ids):,} tokens of {title_of(cut.turn, cut.part)}</h4>"
    yield f'<div class="c">{escape(visible(pieces.text(list(cut.ids)))).replace("⏎", "⏎" + chr(10))}</div>'

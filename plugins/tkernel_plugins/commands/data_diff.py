"""`tk data view --diff A B`: the same rows as two templates render them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel import pipeline
from tkernel.errors import UnusedPlugin, UsageError
from tkernel.pipeline import Session
from tkernel.types.dataset import LoadedDataset
from tkernel.types.requests import StageRequest
from tkernel_plugins.commands.data_run import kind_of, prepared_run, session_of

if TYPE_CHECKING:
    from tkernel_plugins.data.look.difference import Difference, Side
    from tkernel_plugins.data.look.on_terminal import Line
    from tkernel_plugins.data.look.rows import Found

_CONTEXT = 8  # equal tokens that are drawn before and after a change


@dataclass(frozen=True)
class Compared:
    """A row, and how its strips differ."""

    dataset: str
    origin: dict[str, Any]
    differences: dict[str, Difference]

    @property
    def same(self) -> bool:
        """Whether both templates give the same."""
        return all(difference.same for difference in self.differences.values())


def show_difference(
    file: str | None,
    overrides: Sequence[str],
    plugins: Sequence[str],
    templates: tuple[str, str | None],
    *,
    index: int | None,
    row: str | None,
    split: str,
    as_json: bool,
    html: Path | None,
) -> None:
    """Show how two templates render a row; without `index` and `row`, the first row that they render differently.

    With one template, the other is the one of the configuration.
    """
    opened = Sessions(file, overrides, plugins)
    session = opened.of(None)
    kind = kind_of(session)
    if kind == "text":
        raise UsageError("this stage learns plain text, which no template renders", hint="Leave --diff out.")
    first, second = templates
    names = (first, second) if second is not None else (session.choice("template").name, first)
    comparing = Comparing([_rendering(opened.of(name)) for name in names], names, kind)
    opened.refuse_unused()
    entries = session.evaluation if split == "eval" else session.train
    found: Iterator[Found]
    if index is not None:
        found = _of_sample(session, file, split, index)
    elif row is not None:
        found = _at(entries, session, row)
    else:
        found = _every([pipeline.load_dataset(session, entry) for entry in entries])
    count, shown = 0, None
    for item in found:
        shown = comparing.of(item)
        count += 1
        if not shown.same:
            break
    else:
        if index is None and row is None:
            shown = None
    _show(shown, count, names, file or "the command line", as_json, html)


class Sessions:
    """The same run with one template or another; a plugin need be of use with one of them only."""

    def __init__(self, file: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> None:
        self._file, self._overrides, self._plugins = file, overrides, plugins
        self._refused: dict[str, UnusedPlugin] = {}
        self._used: set[str] = set()

    def of(self, template: str | None) -> Session:
        """The run with `template`, or as it is configured."""
        overrides = list(self._overrides) + ([f"template={template}"] if template is not None else [])
        try:
            session = session_of(self._file, overrides, self._plugins)
        except UnusedPlugin as error:
            for number, plugin in enumerate(self._plugins):
                rest = [*self._plugins[:number], *self._plugins[number + 1 :]]
                try:
                    session = session_of(self._file, overrides, rest)
                except UnusedPlugin:
                    continue
                self._refused[plugin] = error
                self._used.update(rest)
                return session
            raise
        self._used.update(self._plugins)
        return session

    def refuse_unused(self) -> None:
        """Raise the error about a plugin that no session had a use for."""
        for plugin, error in self._refused.items():
            if plugin not in self._used:
                raise error


class Comparing:
    """Two renderers of the same rows."""

    def __init__(self, requests: Sequence[StageRequest], names: Sequence[str], kind: str) -> None:
        from tkernel_plugins.data.look.pieces import Pieces
        from tkernel_plugins.data.look.whole import STRIPS, WholeRows

        self.names = names
        self._strips = STRIPS[kind]
        self._rows = [WholeRows(request, kind) for request in requests]
        self._pieces = [Pieces(request.bundle.tokenizer) for request in requests]

    def of(self, found: Found) -> Compared:
        """How the two render a row."""
        from tkernel_plugins.data.look.difference import compare, side_of

        row = dict(found.row)
        differences = {}
        for strip in self._strips:
            first, second = (
                side_of(name, rows, row, strip, pieces)
                for name, rows, pieces in zip(self.names, self._rows, self._pieces, strict=True)
            )
            differences[strip] = compare(first, second)
        return Compared(found.dataset, row["origin"], differences)


def _rendering(session: Session) -> StageRequest:
    """The stage's request without its rows."""
    bundle = pipeline.load_model(session, weights=False)
    renderer = pipeline.render_template(session, bundle)
    media = pipeline.process_media(session, bundle)
    options = session.options_of(session.choice("stage"))
    return StageRequest(bundle=bundle, renderer=renderer, media=media, options=options)


def _of_sample(session: Session, file: str | None, split: str, index: int) -> Iterator[Found]:
    from tkernel_plugins.data.look.looking import Looking

    run = prepared_run(session, file)
    looking = Looking(run.request, run.prepared, run.kind)
    (sample,) = looking.samples(split, index, 1)
    origins = [strip.origin for strip in sample.strips if strip.origin is not None]
    for rows in looking.rows.find(origins).values():
        yield from rows


def _at(entries: Sequence[Any], session: Session, row: str) -> Iterator[Found]:
    from tkernel_plugins.commands.data_view import place
    from tkernel_plugins.data.look.rows import Rows

    found = Rows([pipeline.load_dataset(session, entry) for entry in entries]).at(*place(row))
    if found is None:
        raise UsageError(f"no dataset of this run has a row at {row}")
    yield found


def _every(loaded: Sequence[LoadedDataset]) -> Iterator[Found]:
    from tkernel_plugins.data.look.rows import Found

    for dataset in loaded:
        for row in dataset.rows:
            yield Found(dataset.entry.name, row)


def _show(
    shown: Compared | None, count: int, names: Sequence[str], file: str, as_json: bool, html: Path | None
) -> None:
    from tkernel_plugins.data.look.as_json import FORMAT
    from tkernel_plugins.data.look.on_page import page_html
    from tkernel_plugins.data.look.on_terminal import show

    if as_json:
        values = {"format": FORMAT, "file": file, "templates": list(names), "rows_compared": count}
        print(json.dumps({**values, "row": None if shown is None else _json(shown)}))
    lines = list(_lines(shown, count, names))
    if html is not None:
        from tkernel_plugins.commands.data_view import write

        write(html, page_html(f"{file}: {names[0]} and {names[1]}", map(_line_html, lines)))
    elif not as_json:
        show(lines)


def _lines(shown: Compared | None, count: int, names: Sequence[str]) -> Iterator[Line]:
    from tkernel_plugins.data.look.pieces import visible
    from tkernel_plugins.data.look.sample import place_of

    if shown is None:
        rows = f"all {count:,} rows" if count != 1 else "the only row"
        alike = f"{names[0]} and {names[1]} render {rows} alike, token for token and label for label"
        yield [(alike, "head")]
        return
    where = visible(place_of(shown.origin))
    if shown.same:
        yield [(f"{where}: {names[0]} and {names[1]} render it alike", "head")]
    for strip, difference in shown.differences.items():
        if difference.same:
            continue
        label = f" {strip}" if len(shown.differences) > 1 else ""
        sides = (difference.first, difference.second)
        refused = [side for side in sides if side.error is not None]
        for side in refused:
            yield [(f"{where}{label}: {side.template} refuses it: {visible(str(side.error))}", "removed")]
        begins = difference.begins
        if refused or begins is None:
            continue
        token = f"token {begins.first[0]:,} (character {difference.character:,})"
        yield [(f"{where}{label}: {names[0]} and {names[1]} differ from {token} on", "head")]
        for side, sign in zip(sides, "-+", strict=True):
            learned = f"{sum(side.learned):,} of {len(side.pieces):,} tokens learned"
            yield [(f"{sign} {side.template}: {learned}", "removed" if sign == "-" else "added")]
        yield from _changes(difference)


def _changes(difference: Difference) -> Iterator[Line]:
    """The changes with a few equal tokens around each; what is learned is in brackets."""
    first, second = difference.first, difference.second
    last = len(difference.changes) - 1
    for number, change in enumerate(difference.changes):
        start, stop = change.first
        if change.kind == "same":
            before = _CONTEXT if number else 0
            after = _CONTEXT if number < last else 0
            if stop - start > before + after + 1:
                head = _drawn(first, start, start + before)
                tail = _drawn(first, stop - after, stop)
                yield [(f"  {head}… {stop - start - before - after:,} equal tokens …{tail}", "note")]
            else:
                yield [(f"  {_drawn(first, start, stop)}", "note")]
        elif change.kind == "removed":
            yield [(f"- {_drawn(first, start, stop)}", "removed")]
        elif change.kind == "added":
            yield [(f"+ {_drawn(second, *change.second)}", "added")]
        else:
            learner, other = (first, second) if first.learned[start] else (second, first)
            text = _drawn(first, start, stop, brackets=False)
            yield [(f"~ {text}: learned with {learner.template}, not with {other.template}", "weighted")]


def _drawn(side: Side, start: int, stop: int, brackets: bool = True) -> str:
    """Tokens as text on one line; each stretch that is learned stands in brackets."""
    from tkernel_plugins.data.look.pieces import visible

    text, open_ = "", False
    for position in range(start, stop):
        if brackets and side.learned[position] != open_:
            text += "[" if side.learned[position] else "]"
            open_ = side.learned[position]
        text += visible(side.pieces[position])
    return text + ("]" if open_ else "")


def _line_html(line: Line) -> str:
    tags = {"removed": "del", "added": "ins", "head": "h4"}
    return "".join(
        f"<{tags.get(style, 'p')}>{escape(text)}</{tags.get(style, 'p')}><br>" for text, style in line
    )


def _json(shown: Compared) -> dict[str, Any]:
    return {
        "dataset": shown.dataset,
        "origin": shown.origin,
        "same": shown.same,
        "strips": {strip: _difference_json(item) for strip, item in shown.differences.items()},
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    from tkernel_plugins.data.look.as_json import writable

    def side(value: Side) -> dict[str, Any]:
        return {
            "template": value.template,
            "error": value.error,
            "input_ids": value.whole.ids,
            "labels": value.whole.labels,
            "pieces": [writable(piece) for piece in value.pieces],
        }

    begins = difference.begins
    return {
        "same": difference.same,
        "first_difference": None
        if begins is None
        else {"tokens": [begins.first[0], begins.second[0]], "character": difference.character},
        "first": side(difference.first),
        "second": side(difference.second),
        "changes": [asdict(change) for change in difference.changes],
    }

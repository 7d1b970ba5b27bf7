"""`tk data view`: every token that a model is trained on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tkernel.cli.arguments import FILE_SUFFIXES, Plugins, split_file
from tkernel.errors import TkError, UsageError
from tkernel_plugins.commands.data_run import DataRun, prepared_run, session_of

if TYPE_CHECKING:
    from tkernel_plugins.data.look.cells import Page
    from tkernel_plugins.data.look.looking import Looking
    from tkernel_plugins.data.look.on_terminal import Line
    from tkernel_plugins.data.look.sample import Sample

FINDS = ("truncated", "rejected", "no-eos")
SPLITS = ("train", "eval")
_FOUND = 10  # samples that a search lists where --count does not say how many
_TOKENS = 2000  # on one page of a terminal


def view(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="The YAML or JSON file of a run")] = None,
    index: Annotated[
        int, typer.Option(help="The first sample to show, from 0, in the order of preparation.")
    ] = 0,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many samples to show; of a search, to list.")
    ] = None,
    row: Annotated[str | None, typer.Option(help="Show what the row at FILE:LINE became.")] = None,
    find: Annotated[
        str | None,
        typer.Option(help="Find samples: truncated, rejected or no-eos.", autocompletion=lambda: list(FINDS)),
    ] = None,
    split: Annotated[str, typer.Option(help="train or eval.", autocompletion=lambda: list(SPLITS))] = "train",
    diff: Annotated[
        str | None, typer.Option(metavar="A [B]", help="Compare two templates; auto is the tokenizer's own.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page for a browser.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens of a sample on one page; 0 is all of them.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page of a long sample.")] = 1,
    plugin: Plugins = None,
) -> None:
    """Show every token of a sample as it is trained on: id, label, weight, turn, and the row it came from.

    FILE is prepared as `tk run` prepares it, without loading weights; `key=value` overrides it. Samples are
    counted in the order of preparation: that of mixed and split rows, before any shuffling.

    Example:  tk data view train.yaml --index 3

    Example:  tk data view train.yaml --find truncated --html cut.html

    Example:  tk data view --diff qwen3 auto train.yaml
    """
    path, second, overrides = words_of(file, ctx.args, diff is not None)
    _check(find, split, index, row, diff)
    if diff is not None:
        from tkernel_plugins.commands.data_diff import show_difference

        show_difference(
            path,
            overrides,
            plugin or (),
            (diff, second),
            index=index if "index" in _given(ctx) else None,
            row=row,
            split=split,
            as_json=as_json,
            html=html,
        )
        return
    from tkernel_plugins.data.look.looking import Looking

    session = session_of(path, overrides, plugin or (), drop_bad_rows=find == "rejected")
    run = prepared_run(session, path, overrides, plugin or ())
    looking = Looking(run.request, run.prepared, run.kind)
    if find == "rejected":
        from tkernel_plugins.commands.data_rejected import show_rejected

        show_rejected(run, as_json=as_json, html=html)
        return
    shown = Shown(run, looking, split, as_json, html, max_tokens, page)
    if find is not None:
        shown.found(find, count or _FOUND)
    elif row is not None:
        shown.samples(looking.at(split, *place(row)))
    else:
        shown.samples(looking.samples(split, index, count or 1))


class Shown:
    """Samples in the form that was asked for: lines, JSON or a page."""

    def __init__(
        self,
        run: DataRun,
        looking: Looking,
        split: str,
        as_json: bool,
        html: Path | None,
        max_tokens: int | None,
        page: int,
    ) -> None:
        from tkernel_plugins.data.look.pieces import Pieces

        self.run, self.looking, self.split = run, looking, split
        self.as_json, self.html, self.page = as_json, html, page
        # A page in a browser scrolls.
        self.tokens = max_tokens if max_tokens is not None else 0 if html is not None else _TOKENS
        self.pieces = Pieces(run.request.bundle.tokenizer)

    def samples(self, samples: Sequence[Sample], heads: Sequence[Line] = (), **values: Any) -> None:
        """Show samples; `heads` are lines before them, `values` what JSON has beside them."""
        from tkernel_plugins.data.look.on_page import page_html, sample_html
        from tkernel_plugins.data.look.on_terminal import page_lines, show, width

        if self.as_json:
            print(json.dumps(self.json(samples, **values)))
        of = self.looking.size(self.split)
        if self.html is not None:
            body = [line for page in self.pages(samples) for line in sample_html(page, self.pieces, of)]
            title = f"{self.run.file}: {self.run.kind} rows, template {self.run.request.renderer.name}"
            write(self.html, page_html(title, body or [f"<p>{text_of(heads)}</p>"]))
        if not self.as_json and self.html is None:
            show(heads)
            for page in self.pages(samples):
                show(page_lines(page, self.pieces, width(), of, self._again(page.sample)))

    def _again(self, sample: Sample) -> str:
        """The command that shows a sample."""
        where = ["--split", self.split] if self.split != SPLITS[0] else []
        words = ["tk", "data", "view", *self.run.words, *where, "--index", str(sample.index)]
        words += ["--max-tokens", str(self.tokens)] if self.tokens != _TOKENS else []
        return shlex.join(words)

    def pages(self, samples: Sequence[Sample]) -> Iterator[Page]:
        """The page of each sample that was asked for."""
        from tkernel_plugins.data.look.cells import page_of

        for sample in samples:
            yield page_of(sample, self.tokens, self.page)

    def json(self, samples: Sequence[Sample], **values: Any) -> dict[str, Any]:
        """The samples with all their tokens, whatever fits on a page."""
        from tkernel_plugins.data.look.as_json import FORMAT, sample_json

        return {
            "format": FORMAT,
            "file": self.run.file,
            "rows": self.run.kind,
            "template": self.run.request.renderer.name,
            "split": self.split,
            "size": self.looking.size(self.split),
            "order": "preparation",
            **values,
            "samples": [sample_json(sample, self.pieces) for sample in samples],
        }

    def found(self, what: str, most: int) -> None:
        """List the samples that a search finds and show them, the first `most`."""
        from tkernel_plugins.data.progress import Progress

        hits: list[Sample] = []
        replies: list[dict[str, Any]] = []
        total = 0
        with Progress(f"look for {what}", self.looking.size(self.split), quiet_below=5) as progress:
            for sample in self.looking.scan(self.split):
                progress.advance(1)
                unfinished = self.looking.unfinished(sample) if what == "no-eos" else []
                if unfinished or (what == "truncated" and sample.lost):
                    total += 1
                    if len(hits) < most:
                        hits.append(sample)
                        replies += [{"index": sample.index, **vars(item)} for item in unfinished]
        values: dict[str, Any] = {"find": what, "found": total}
        if what == "no-eos":
            values["replies"] = replies
        self.samples(hits, list(self._heads(what, hits, replies, total)), **values)

    def _heads(
        self, what: str, hits: Sequence[Sample], replies: Sequence[dict[str, Any]], total: int
    ) -> Iterator[Line]:
        from tkernel_plugins.data.look.cells import title_of
        from tkernel_plugins.data.look.pieces import visible
        from tkernel_plugins.data.look.sample import place_of

        words = {
            "truncated": "lost tokens to truncation",
            "no-eos": "have a reply that is learned without the token that ends it",
        }
        size = self.looking.size(self.split)
        yield [
            (
                f"{total:,} of {size:,} samples {words[what]}"
                if size is not None
                else f"{total:,} samples {words[what]}",
                "head",
            )
        ]
        for sample in hits:
            places = ", ".join(dict.fromkeys(visible(place_of(strip.origin)) for strip in sample.strips))
            if what == "truncated":
                yield [(f"  sample {sample.index:,}: {sample.lost:,} tokens cut off; {places}", "")]
            for reply in (reply for reply in replies if reply["index"] == sample.index):
                where = title_of(reply["turn"], reply["part"])
                yield [(f"  sample {sample.index:,}: {where}: {reply['reason']}; {places}", "")]
        if total > len(hits):
            yield [(f"  and {total - len(hits):,} more: --count {total}", "note")]


def words_of(
    file: str | None, rest: Sequence[str], two_templates: bool
) -> tuple[str | None, str | None, list[str]]:
    """The configuration file, the second template of `--diff A B` and the overrides."""
    path, overrides = split_file(file, rest)
    if not two_templates:
        return path, None, overrides
    other, left = split_file(None, overrides)
    if other is None:
        return path, None, overrides
    if path is not None and not path.endswith(FILE_SUFFIXES) and other.endswith(FILE_SUFFIXES):
        path, other = other, path
    return path, other, left


def place(text: str) -> tuple[str, int]:
    """`file:line` taken apart."""
    file, colon, line = text.rpartition(":")
    if not colon or not line.isdigit():
        raise UsageError(f"--row is FILE:LINE, such as data/rows.jsonl:3, not {text!r}")
    return file, int(line)


def write(path: Path, text: str) -> None:
    """Write a file and say so, on standard error."""
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise TkError(f"cannot write {path}: {error.strerror}", hint="Choose another file.") from error
    typer.echo(f"wrote {path}", err=True)


def text_of(lines: Sequence[Line]) -> str:
    """Lines as text for a page."""
    from html import escape

    return escape(" ".join(text for line in lines for text, _ in line))


def _given(ctx: typer.Context) -> set[str]:
    """Options that stand on the command line."""
    return {name for name in ctx.params if str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")}


def _check(find: str | None, split: str, index: int, row: str | None, diff: str | None) -> None:
    if find is not None and find not in FINDS:
        raise UsageError(f"--find is one of {', '.join(FINDS)}, not {find!r}")
    if split not in SPLITS:
        raise UsageError(f"--split is train or eval, not {split!r}")
    if index < 0:
        raise UsageError(f"--index counts from 0, not {index}")
    if sum(value is not None for value in (find, row)) > 1 or (diff is not None and find is not None):
        raise UsageError("--find, --row and --diff ask for different samples; give one of them")

"""Prepared samples with everything that is known of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, UsageError
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.look.alignment import missing, placed, positions
from tkernel_plugins.data.look.rows import Found, Key, Rows, is_at, key_of
from tkernel_plugins.data.look.sample import IGNORED, Sample, Span, Strip, place_of
from tkernel_plugins.data.look.whole import Whole, WholeRows

if TYPE_CHECKING:
    from tkernel_plugins.data.prepare import Prepared

_BATCH = 256


@dataclass(frozen=True)
class Unfinished:
    """A reply that is learned without a token that ends it: `(start, stop)` in its strip, and why."""

    strip: int
    start: int
    stop: int
    turn: int | None
    part: str
    reason: str


class Looking:
    """Looks at prepared data, at the rows it came from and at what truncation took out.

    Args:
        request: the stage's request, from which `prepared` was made.
        prepared: what `prepare` returned.
        kind: the stage's kind of rows.
    """

    def __init__(self, request: StageRequest, prepared: Prepared, kind: str) -> None:
        self.request, self.prepared, self.kind = request, prepared, kind
        self.rows = Rows([*request.train, *request.eval])
        self._whole = WholeRows(request, kind)
        self._eos = frozenset(request.renderer.stop_ids)
        # What one piece of a split conversation lacks is in the others.
        self._splits = getattr(request.options, "truncation", "") == "split"

    def split(self, name: str) -> Any:
        """The samples of `train` or `eval`: a `datasets.Dataset`, or a stream that can only be iterated.

        Raises:
            UsageError: there are none.
        """
        found = self.prepared.train if name == "train" else self.prepared.eval
        if isinstance(found, dict):
            from datasets import concatenate_datasets

            found = concatenate_datasets(list(found.values()))
        if found is None:
            raise UsageError(
                f"the run has no samples for {name}",
                hint="Set `val_size` or `eval_dataset`." if name == "eval" else "Name a `dataset`.",
            )
        return found

    def size(self, name: str) -> int | None:
        """How many samples a split has; None for a stream."""
        return getattr(self.split(name), "num_rows", None)

    def samples(self, name: str, start: int, count: int) -> list[Sample]:
        """Samples `start`, `start + 1`, ... in the order of preparation.

        Raises:
            UsageError: there is no sample `start`; the message says how many there are.
            DataError: a sample's row does not give its ids when it is rendered again.
        """
        split, size = self.split(name), self.size(name)
        if size is None:
            rows = list(islice(split, start, start + count))
        else:
            rows = [split[index] for index in range(start, min(start + count, size))]
        if not rows:
            many = f"{size:,} samples, 0 to {size - 1:,}" if size else "no more"
            raise UsageError(f"there is no sample {start:,} for {name}: there are {many}")
        return self._looked_at(rows, name, start)

    def at(self, name: str, file: str, line: int) -> list[Sample]:
        """The samples that the row at `file:line` became (several, where truncation splits).

        Raises:
            UsageError: none; the message says whether the row was read at all, and why it is not used.
        """
        found = [
            (index, row)
            for index, row in enumerate(self.split(name))
            if any(is_at(origin, file, line) for origin in _origins(row))
        ]
        if found:
            return [sample for index, row in found for sample in self._looked_at([row], name, index)]
        for counts in self.prepared.report.datasets:
            for rejection in counts.positions:
                if is_at(vars(rejection), file, line):
                    raise UsageError(f"{rejection.place} is not used: {rejection.reason}")
        known = self.rows.at(file, line)
        if known is None:
            raise UsageError(
                f"no dataset of this run has a row at {file}:{line}",
                hint="Files are named as in the messages of tk: `--row data/rows.jsonl:3`.",
            )
        raise UsageError(
            f"{place_of(known.row['origin'])} of dataset {known.dataset} is not among the samples for {name}",
            hint="See `--split` for the other samples, and `--find rejected` for rows that are not used.",
        )

    def scan(self, name: str) -> Iterator[Sample]:
        """All samples of a split, one after the other."""
        start = 0
        rows = iter(self.split(name))
        while batch := list(islice(rows, _BATCH)):
            yield from self._looked_at(batch, name, start)
            start += len(batch)

    def unfinished(self, sample: Sample) -> list[Unfinished]:
        """Replies of a sample from whose labels the model does not learn to stop."""
        found = []
        # The reply of another row is no data of this one; a text at the end of a block goes on in the next.
        last = len(sample.strips) - 1 if self.kind == "text" and sample.packed else None
        for number, strip in enumerate(sample.strips):
            if strip.name == "kl" or number == last:
                continue
            for start, stop, turn, part in strip.spans:
                # A template may teach the end in place of the next prompt's first token.
                labels = strip.labels[start : stop + 1]
                if part == "prompt" or all(label == IGNORED for label in labels[: stop - start]):
                    continue
                if self._eos.intersection(labels):
                    continue
                lost = any(cut.turn == turn and cut.part == part for cut in strip.cut)
                why = "truncation cut it off" if lost else "the template puts none there"
                why = "it may go on in the next sample" if self._splits else why
                found.append(Unfinished(number, start, stop, turn, part, why))
        return found

    def _looked_at(self, rows: Sequence[Mapping[str, Any]], name: str, start: int) -> list[Sample]:
        samples = [_sample(row, name, index, self.kind) for index, row in enumerate(rows, start)]
        strips = [strip for sample in samples for strip in sample.strips if strip.origin is not None]
        found = self.rows.find(strip.origin for strip in strips if strip.origin is not None)
        wholes = self._wholes(found)
        return [
            replace(
                sample, strips=tuple(self._traced(sample, strip, found, wholes) for strip in sample.strips)
            )
            for sample in samples
        ]

    def _wholes(self, found: Mapping[Key, list[Found]]) -> dict[Key, list[dict[str, Whole]]]:
        every = [item for items in found.values() for item in items]
        rendered = iter(self._whole.of([item.row for item in every]))
        return {key: [next(rendered) for _ in items] for key, items in found.items()}

    def _traced(
        self,
        sample: Sample,
        strip: Strip,
        found: Mapping[Key, list[Found]],
        wholes: Mapping[Key, list[dict[str, Whole]]],
    ) -> Strip:
        """A strip with turns, parts and what was cut, taken from the row that gives its ids."""
        # A packed text is cut where its row is full, and its first token may be replaced.
        blocks = self.kind == "text" and sample.packed
        if strip.origin is None or key_of(strip.origin) not in found or blocks:
            return replace(strip, spans=_told_by_labels(strip, self.kind))
        key = key_of(strip.origin)
        for item, whole in zip(found[key], wholes[key], strict=True):
            strip = replace(strip, dataset=item.dataset)
            if strip.name not in whole:
                return replace(strip, spans=_told_by_labels(strip, self.kind))
            rendered = whole[strip.name]
            kept = positions(rendered.ids, rendered.spans, strip.ids)
            if kept is not None:
                cut = () if self._splits else missing(rendered.ids, rendered.spans, kept)
                return replace(strip, spans=placed(rendered.spans, kept), cut=cut)
        raise DataError(
            f"{place_of(strip.origin)} was prepared as other ids than its row gives now",
            hint="Prepare anew with `overwrite_cache: true`; if that does not help, the template is not the same "
            "each time that it renders a row.",
        )


def _origins(row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return row["origins"] if row.get("lengths") is not None else [row["origin"]]


def _sample(row: Mapping[str, Any], name: str, index: int, kind: str) -> Sample:
    """A prepared row as strips, their tokens not yet traced."""
    if row.get("lengths") is not None:
        return Sample(index, name, tuple(_packed(row, first_is_learned=kind == "text")), packed=True)
    origin = row.get("origin")
    if "chosen_input_ids" in row:
        sides = ("chosen", "rejected")
        strips = [
            _strip(side, row[f"{side}_input_ids"], row[f"{side}_labels"], origin, row.get(f"{side}_weights"))
            for side in sides
        ]
        return Sample(index, name, tuple(strips))
    if "kl_input_ids" in row:
        liked = _strip("input", row["input_ids"], row["labels"], origin, row.get("weights"))
        other = _strip("kl", row["kl_input_ids"], row["kl_labels"], origin)
        return Sample(index, name, (liked, other), label=row.get("label"))
    if kind == "prompt":
        prompt = _strip("input", row["input_ids"], (), origin)
        reply = [_strip("reply", row["labels"], (), origin)] if row["labels"] else []
        return Sample(index, name, (prompt, *reply))
    strip = _strip("input", row["input_ids"], row["labels"], origin, row.get("weights"))
    return Sample(index, name, (strip,))


def _packed(row: Mapping[str, Any], first_is_learned: bool) -> Iterator[Strip]:
    """The samples of a packed row; the first token of one is not learned from the end of another, but in text."""
    start = 0
    for length, origin in zip(row["lengths"], row["origins"], strict=True):
        stop = start + length
        weights = row.get("weights")
        part = None if weights is None else weights[start:stop]
        ids, labels = row["input_ids"][start:stop], row["labels"][start:stop]
        if not first_is_learned:
            labels = [IGNORED, *labels[1:]]
        yield replace(_strip("input", ids, labels, origin, part), start=start)
        start = stop


def _strip(
    name: str,
    ids: Sequence[int],
    labels: Sequence[int],
    origin: Mapping[str, Any] | None,
    weights: Sequence[float] | None = None,
) -> Strip:
    held = None if weights is None else tuple(weights)
    return Strip(name, tuple(ids), tuple(labels), held, origin=origin)


def _told_by_labels(strip: Strip, kind: str) -> tuple[Span, ...]:
    """Parts of a strip whose row cannot be rendered on its own: what is learned is reply."""
    if kind == "text" or not strip.labels:
        part = "text" if kind == "text" else "reply" if strip.name == "reply" else "prompt"
        return ((0, len(strip.ids), None, part),) if strip.ids else ()
    spans: list[Span] = []
    for position, label in enumerate(strip.labels):
        part = "prompt" if label == IGNORED else "reply"
        if spans and spans[-1][3] == part:
            spans[-1] = (spans[-1][0], position + 1, None, part)
        else:
            spans.append((position, position + 1, None, part))
    return tuple(spans)

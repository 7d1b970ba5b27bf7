"""Samples as plain values. docs/data/seeing.md describes them; `FORMAT` rises when something changes its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tkernel.types.dataset import Rejection
from tkernel_plugins.data.look.pieces import Pieces
from tkernel_plugins.data.look.sample import Cut, Sample, Strip

FORMAT = 1


def sample_json(sample: Sample, pieces: Pieces) -> dict[str, Any]:
    """A sample with all its tokens."""
    return {
        "index": sample.index,
        "split": sample.split,
        "packed": sample.packed,
        "label": sample.label,
        "tokens": sum(len(strip.ids) for strip in sample.strips),
        "tokens_lost": sample.lost,
        "strips": [_strip_json(strip, pieces) for strip in sample.strips],
    }


def _strip_json(strip: Strip, pieces: Pieces) -> dict[str, Any]:
    return {
        "name": strip.name,
        "dataset": strip.dataset,
        "origin": dict(strip.origin) if strip.origin is not None else None,
        "start": strip.start,
        "input_ids": list(strip.ids),
        "pieces": [writable(pieces(token)) for token in strip.ids],
        "labels": list(strip.labels),
        "weights": list(strip.weights) if strip.weights is not None else None,
        "spans": [
            {"start": start, "stop": stop, "turn": turn, "part": part}
            for start, stop, turn, part in strip.spans
        ],
        "cut": [_cut_json(cut, pieces) for cut in strip.cut],
    }


def _cut_json(cut: Cut, pieces: Pieces) -> dict[str, Any]:
    return {
        "before": cut.before,
        "turn": cut.turn,
        "part": cut.part,
        "input_ids": list(cut.ids),
        "text": writable(pieces.text(list(cut.ids))),
    }


def rejection_json(rejection: Rejection, dataset: str) -> Mapping[str, Any]:
    """A row that is not used."""
    return {
        "dataset": dataset,
        "file": rejection.file,
        "row": rejection.row,
        "line": rejection.line,
        "reason": writable(rejection.reason),
    }


def writable(text: str) -> str:
    """`text` as UTF-8 can hold it: half of a surrogate pair is spelled."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")

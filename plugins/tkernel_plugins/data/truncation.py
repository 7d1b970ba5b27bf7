"""What becomes of a conversation that is longer than `cutoff_len`.

A policy names the stretches of ids to keep; labels, weights, spans and media follow them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from tkernel.errors import DataError, TkError
from tkernel.types.rendering import Encoded

POLICIES = ("proportional", "keep_start", "keep_end", "split", "drop", "error")

Lengths = tuple[int, int]
Stretch = tuple[int, int]


def proportional(turns: Sequence[Lengths], room: int) -> list[Lengths]:
    """Turn by turn, the prompt and the reply of a turn that does not fit share the room (LLaMA-Factory's rule).

    A reply shorter than half the room is kept whole; else a prompt shorter than half of it is kept
    whole; else both are cut in proportion. Lengths `(prompt, reply)` are in tokens, the most important
    turn first; what is kept of each is its start.
    """
    kept = []
    for prompt, reply in turns:
        if room <= 0:
            kept.append((0, 0))
            continue
        if reply * 2 < room:
            most = room
        elif prompt * 2 < room:
            most = room - prompt
        else:
            most = int(room * (reply / (prompt + reply)))
        keep_reply = min(most, reply)
        keep_prompt = min(max(room - keep_reply, 0), prompt)
        kept.append((keep_prompt, keep_reply))
        room -= keep_prompt + keep_reply
    return kept


def truncate(
    encoded: Encoded, cutoff_len: int, truncation: str = "proportional", *, last_first: bool, ends: bool
) -> list[Encoded]:
    """The samples that a conversation gives: itself if it fits, else what `truncation` makes of it.

    `keep_start` and `keep_end` keep `cutoff_len` tokens, `split` makes pieces of at most as many, which
    end with a turn if one ends in their second half, `drop` gives a sample without tokens. `last_first`:
    for `proportional` the last turn is the most important. `ends`: the last token ends whatever it keeps.

    Raises:
        DataError: `error`, or `split` where a medium alone is longer than `cutoff_len`.
        TkError: there is no such policy.
    """
    size = len(encoded.input_ids)
    if truncation not in POLICIES:
        raise TkError(
            f"there is no truncation policy {truncation!r}", hint=f"There are: {', '.join(POLICIES)}."
        )
    if size <= cutoff_len:
        return [encoded]
    if truncation == "error":
        raise DataError(
            f"{size:,} tokens are more than cutoff_len {cutoff_len:,}", hint="Raise `cutoff_len`."
        )
    if truncation == "split":
        pieces = [keep(encoded, [window]) for window in _windows(encoded, cutoff_len)]
        return [replace(piece, dropped=0, piece=number) for number, piece in enumerate(pieces)]
    if truncation == "proportional" and encoded.spans:
        return [_share(encoded, cutoff_len, last_first, ends)]
    kept = {"drop": (0, 0), "keep_end": (size - cutoff_len, size)}.get(truncation, (0, cutoff_len))
    return [keep(encoded, [kept])]


def keep(encoded: Encoded, kept: Sequence[Stretch], end: int | None = None) -> Encoded:
    """A sample of some stretches of another, in order, without media that they would cut.

    `end` is the position whose label and weight the last token gets, where these are not its own.
    """
    places = [place for start, stop in kept for place in range(start, stop)]
    for first, last, _ in encoded.media:
        inside = bisect_left(places, last) - bisect_left(places, first)
        if inside < last - first:
            places = [place for place in places if not first <= place < last]
    here = partial(bisect_left, places)
    labelled = places if end is None else [*places[:-1], end]
    weights = [encoded.weights[place] for place in labelled] if encoded.weights else []
    return Encoded(
        [encoded.input_ids[place] for place in places],
        [encoded.labels[place] for place in labelled],
        [(here(a), here(b), turn, part) for a, b, turn, part in encoded.spans if here(a) < here(b)],
        weights if any(weight != 1.0 for weight in weights) else None,
        len(encoded.input_ids) - len(places),
        [(here(a), here(b), number) for a, b, number in encoded.media if here(a) < here(b)],
    )


def _share(encoded: Encoded, cutoff_len: int, last_first: bool, ends: bool) -> Encoded:
    """What the proportional rule keeps of each turn."""
    size, pairs = len(encoded.input_ids), zip(encoded.spans[::2], encoded.spans[1::2], strict=True)
    turns = [(start, middle, min(stop, size - ends)) for (start, *_), (middle, stop, *_) in pairs]
    order = slice(None, None, -1 if last_first else 1)
    lengths = [(middle - start, stop - middle) for start, middle, stop in turns]
    shares = proportional(lengths[order], cutoff_len - ends)[order]
    kept, end = [], size - 1
    for (start, middle, stop), (prompt, reply) in zip(turns, shares, strict=True):
        kept += [(start, start + prompt), (middle, middle + reply)]
        # What ends the last reply that is kept is learned where the next prompt begins.
        end = stop if prompt + reply else end
    return keep(encoded, [*kept, (size - 1, size)], end) if ends else keep(encoded, kept)


def _windows(encoded: Encoded, cutoff_len: int) -> Iterator[Stretch]:
    """The stretches of at most `cutoff_len` tokens that `split` makes; nothing is left out."""
    size, start = len(encoded.input_ids), 0
    while size - start > cutoff_len:
        most = start + cutoff_len
        turns = (first for first, _, _, part in encoded.spans if part == "prompt" and first <= most)
        stop = max((turn for turn in turns if turn > most - cutoff_len // 2), default=most)
        stop = min([stop, *(first for first, last, _ in encoded.media if first < stop < last)])
        if stop <= start:
            raise DataError(f"a medium alone takes more than the {cutoff_len:,} tokens of cutoff_len")
        yield start, stop
        start = stop
    yield start, size

"""Which tokens of a whole conversation are left in a truncated one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tkernel_plugins.data.look.sample import Cut, Span


def positions(whole: Sequence[int], spans: Sequence[Span], ids: Sequence[int]) -> list[int] | None:
    """The position in `whole` of each of `ids`, in order; None if `ids` is not what is left of `whole`.

    Left may be all of it, a stretch (the start, the end, a piece of it), the start of each of its `spans`, or
    any tokens in their order.
    """
    if len(ids) == len(whole):
        return list(range(len(whole))) if list(ids) == list(whole) else None
    if len(ids) > len(whole):
        return None
    return _stretch(whole, ids) or _starts_of_parts(whole, spans, ids) or _in_order(whole, ids)


def placed(spans: Sequence[Span], kept: Sequence[int]) -> tuple[Span, ...]:
    """The spans of what is left, given the position of each of its tokens in the whole."""
    found: list[Span] = []
    owners = _owners(spans, kept)
    for position, owner in enumerate(owners):
        if found and position and owners[position - 1] == owner:
            found[-1] = (found[-1][0], position + 1, *owner)
        else:
            found.append((position, position + 1, *owner))
    return tuple(found)


def missing(whole: Sequence[int], spans: Sequence[Span], kept: Sequence[int]) -> tuple[Cut, ...]:
    """The tokens that are not left, a `Cut` for each stretch of one part."""
    left = set(kept)
    lost = [position for position in range(len(whole)) if position not in left]
    owners = _owners(spans, lost)
    # A stretch begins where the position jumps or the part is another.
    begins = [
        number
        for number, (position, owner) in enumerate(zip(lost, owners, strict=True))
        if number == 0 or position != lost[number - 1] + 1 or owner != owners[number - 1]
    ]
    cuts = []
    for number, after in pairwise([*begins, len(lost)]):
        stretch = lost[number:after]
        cuts.append(Cut(bisect_left(kept, stretch[0]), *owners[number], tuple(whole[at] for at in stretch)))
    return tuple(cuts)


def _owners(spans: Sequence[Span], wanted: Sequence[int]) -> list[tuple[int | None, str]]:
    """Turn and part of each position; `wanted` rises."""
    owners = []
    remaining: Iterator[Span] = iter(spans)
    start, stop, turn, part = next(remaining, (0, 0, None, "text"))
    for position in wanted:
        while position >= stop:
            start, stop, turn, part = next(remaining, (stop, max(wanted) + 1, None, "text"))
        owners.append((turn, part) if position >= start else (None, "text"))
    return owners


def _stretch(whole: Sequence[int], ids: Sequence[int]) -> list[int] | None:
    whole, ids = list(whole), list(ids)
    room = len(whole) - len(ids)
    # The start and the end are what truncation keeps; the others only then.
    for start in (0, room, *range(1, room)):
        if whole[start : start + 1] == ids[:1] and whole[start : start + len(ids)] == ids:
            return list(range(start, start + len(ids)))
    return None


def _starts_of_parts(whole: Sequence[int], spans: Sequence[Span], ids: Sequence[int]) -> list[int] | None:
    """As much as can be of each part before what follows it."""
    parts = [(start, stop) for start, stop, *_ in spans if stop > start]
    if not parts:
        return None
    start, stop = parts.pop()
    # The token that ends a conversation may be kept where its reply is cut.
    parts += [(start, stop - 1), (stop - 1, stop)]
    # For each part: tokens used up to its end -> tokens used before it.
    reached: list[dict[int, int]] = []
    befores = [0]
    for start, stop in parts:
        after: dict[int, int] = {}
        for used in befores:
            for taken in range(_common(whole, start, stop, ids, used) + 1):
                after.setdefault(used + taken, used)
        reached.append(after)
        befores = sorted(after, reverse=True)
    if len(ids) not in reached[-1]:
        return None
    found: list[int] = []
    used = len(ids)
    for (start, _), after in zip(reversed(parts), reversed(reached), strict=True):
        found[:0] = range(start, start + used - after[used])
        used = after[used]
    return found


def _common(whole: Sequence[int], start: int, stop: int, ids: Sequence[int], used: int) -> int:
    """How many tokens from `start` on are those from `used` on."""
    count = 0
    while start + count < stop and used + count < len(ids) and whole[start + count] == ids[used + count]:
        count += 1
    return count


def _in_order(whole: Sequence[int], ids: Sequence[int]) -> list[int] | None:
    found = []
    rest = iter(enumerate(whole))
    for wanted in ids:
        position = next((position for position, token in rest if token == wanted), None)
        if position is None:
            return None
        found.append(position)
    return found

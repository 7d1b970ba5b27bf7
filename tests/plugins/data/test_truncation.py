"""What is kept of a conversation is a part of it, in order, and everything that belongs to it follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkernel.errors import DataError, TkError
from tkernel.types.rendering import Encoded
from tkernel_plugins.data.truncation import POLICIES, proportional, truncate

LENGTHS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=6)


@given(turns=LENGTHS, room=st.integers(-1, 200))
def test_never_more_than_there_is_and_never_more_than_there_is_room_for(
    turns: list[tuple[int, int]], room: int
) -> None:
    kept = proportional(turns, room)
    assert len(kept) == len(turns)
    assert all(
        0 <= p <= prompt and 0 <= r <= reply for (p, r), (prompt, reply) in zip(kept, turns, strict=True)
    )
    assert sum(map(sum, kept)) <= max(room, 0)


@given(turns=LENGTHS)
def test_what_fits_is_kept(turns: list[tuple[int, int]]) -> None:
    assert proportional(turns, sum(map(sum, turns))) == turns


@pytest.mark.parametrize(
    ("turn", "room", "kept"),
    [
        ((100, 4), 10, (6, 4)),  # a short reply is kept whole
        ((4, 100), 10, (4, 6)),  # else a short prompt is
        ((30, 10), 8, (6, 2)),  # else both are cut in proportion
        ((10, 30), 8, (2, 6)),
        ((5, 5), 0, (0, 0)),
    ],
)
def test_prompt_and_reply_share_the_room(turn: tuple[int, int], room: int, kept: tuple[int, int]) -> None:
    assert proportional([turn], room) == [kept]


def test_turns_are_served_in_order() -> None:
    assert proportional([(2, 2), (3, 3), (4, 4)], 7) == [(2, 2), (2, 1), (0, 0)]


@st.composite
def encoded(draw: st.DrawFn, media: bool = True) -> Encoded:
    """A conversation whose ids are their positions; labels, weights and media can be told from them."""
    turns = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5))
    spans: list[tuple[int, int, int, str]] = []
    labels: list[int] = []
    for number, (prompt, reply) in enumerate(turns):
        start, middle = len(labels), len(labels) + prompt
        labels += [-100] * prompt + (
            list(range(middle, middle + reply)) if draw(st.booleans()) else [-100] * reply
        )
        spans += [(start, middle, number, "prompt"), (middle, middle + reply, number, "reply")]
    places, position = [], 0
    while media and (start := position + draw(st.integers(0, 8))) < len(labels) - 1 and draw(st.booleans()):
        position = min(start + draw(st.integers(1, 6)), len(labels))
        places.append((start, position, len(places)))
    weights = [float(place) for place in range(len(labels))] if draw(st.booleans()) else None
    return Encoded(list(range(len(labels))), labels, spans, weights, media=places)


def follows(piece: Encoded, whole: Encoded) -> bool:
    """Whether labels, weights, spans and media of a piece are those that its ids have in the whole."""
    ids = piece.input_ids
    assert ids == sorted(set(ids))
    assert piece.labels == [whole.labels[place] for place in ids]
    weights = [whole.weights[place] for place in ids] if whole.weights else []
    assert piece.weights == (weights if any(weight != 1.0 for weight in weights) else None)
    spanned = {place: names for start, end, *names in whole.spans for place in range(start, end)}
    assert [n for start, end, *n in piece.spans for _ in ids[start:end]] == [spanned[place] for place in ids]
    assert sum(end - start for start, end, *_ in piece.spans) == len(ids)
    for start, end, number in piece.media:
        first, last, _ = whole.media[number]
        assert ids[start:end] == list(range(first, last))
    kept = {number for _, _, number in piece.media}
    return all(
        set(range(first, last)).isdisjoint(ids) for first, last, number in whole.media if number not in kept
    )


@given(whole=encoded(), cutoff_len=st.integers(1, 90), policy=st.sampled_from(POLICIES), last=st.booleans())
def test_what_is_kept_fits_is_in_order_and_keeps_its_labels_weights_spans_and_media(
    whole: Encoded, cutoff_len: int, policy: str, last: bool
) -> None:
    size = len(whole.input_ids)
    if size <= cutoff_len:
        assert truncate(whole, cutoff_len, policy, last_first=last, ends=False) == [whole]
        return
    longest = max((end - start for start, end, _ in whole.media), default=0)
    if policy == "error" or (policy == "split" and longest > cutoff_len):
        with pytest.raises(DataError, match=f"cutoff_len {cutoff_len}|a medium alone"):
            truncate(whole, cutoff_len, policy, last_first=last, ends=False)
        return
    pieces = truncate(whole, cutoff_len, policy, last_first=last, ends=False)
    for number, piece in enumerate(pieces):
        assert follows(piece, whole)
        assert len(piece.input_ids) <= cutoff_len
        assert piece.piece == number
    if policy == "split":
        assert [i for piece in pieces for i in piece.input_ids] == whole.input_ids
        assert [n for piece in pieces for *_, n in piece.media] == [n for *_, n in whole.media]
        assert not any(piece.dropped for piece in pieces)
    else:
        assert [piece.dropped for piece in pieces] == [size - len(pieces[0].input_ids)]
    if policy == "drop":
        assert pieces[0].input_ids == []


@given(whole=encoded(media=False), cutoff_len=st.integers(1, 40))
def test_the_ends_that_are_kept_are_the_ends(whole: Encoded, cutoff_len: int) -> None:
    ids = whole.input_ids
    for policy, expected in (("keep_start", ids[:cutoff_len]), ("keep_end", ids[-cutoff_len:])):
        assert truncate(whole, cutoff_len, policy, last_first=False, ends=False)[0].input_ids == expected


@given(whole=encoded(media=False), cutoff_len=st.integers(2, 40))
def test_a_piece_ends_with_a_turn_if_one_ends_in_its_second_half(whole: Encoded, cutoff_len: int) -> None:
    pieces = truncate(whole, cutoff_len, "split", last_first=False, ends=False)
    starts = {start for start, _, _, part in whole.spans if part == "prompt"}
    for piece in pieces[:-1]:
        first, last = piece.input_ids[0], piece.input_ids[-1]
        half = range(first + cutoff_len - cutoff_len // 2 + 1, first + cutoff_len + 1)
        assert last + 1 == max(starts.intersection(half), default=first + cutoff_len)


def test_what_ends_a_sequence_stays_with_the_label_of_the_reply_that_is_last_then() -> None:
    # Two turns and an end: the end of the first, which is learned, is the label of the second prompt.
    spans = [(0, 2, 0, "prompt"), (2, 4, 0, "reply"), (4, 6, 1, "prompt"), (6, 9, 1, "reply")]
    whole = Encoded([0, 1, 2, 3, 4, 5, 6, 7, 99], [-100, -100, 2, 3, 99, -100, -100, -100, -100], spans)
    cut = truncate(whole, 5, last_first=False, ends=True)[0]
    assert cut.input_ids == [0, 1, 2, 3, 99]
    assert cut.labels == [-100, -100, 2, 3, 99]
    # Nothing predicts the first token, whatever its label is.
    assert truncate(whole, 5, last_first=True, ends=True)[0].labels[1:] == [-100] * 4


def test_a_policy_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(TkError, match="keep_start, keep_end, split, drop, error"):
        truncate(Encoded([1], [1]), 5, "middle", last_first=False, ends=False)

"""The proportional rule of truncation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkernel.truncation import proportional

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

"""When Python searches for garbage."""

from __future__ import annotations

import gc

from tkernel_plugins.garbage import AT_ONCE, USUAL, not_searched_again, seldom_searched


def test_the_search_is_seldom_inside_usual_while_training_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with seldom_searched():
        assert gc.get_threshold()[0] == AT_ONCE
        with seldom_searched(), not_searched_again():
            assert gc.get_threshold() == USUAL
        assert gc.get_threshold()[0] == AT_ONCE
    assert gc.get_threshold() == before


def test_what_was_there_before_training_is_searched_again_when_it_ends() -> None:
    frozen = gc.get_freeze_count()
    with not_searched_again():
        assert gc.get_freeze_count() > frozen
    assert gc.get_freeze_count() == 0


def test_all_is_put_back_after_an_error() -> None:
    before = gc.get_threshold()
    try:
        with seldom_searched(), not_searched_again():
            raise KeyError
    except KeyError:
        pass
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0

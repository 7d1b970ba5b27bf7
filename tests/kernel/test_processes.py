"""What the processes of a distributed run tell each other, and what they say where they differ."""

from __future__ import annotations

import pytest

from tkernel.config.read import Setting
from tkernel.errors import ProcessesDisagree
from tkernel.lock import Lock
from tkernel_plugins.runs.processes import agree, compare, told


def lock(rate: float, **versions: str) -> Lock:
    return Lock((Setting("learning_rate", rate, "train.yaml:1"),), {"stage": "a==1:sft"}, versions)


def test_two_processes_with_the_same_plan_agree_wherever_their_settings_were_written() -> None:
    other = Lock((Setting("learning_rate", 0.1, "command line"),), {"stage": "a==1:sft"})
    compare(0, 1, 2, told(lock(0.1)), told(other))


def test_what_differs_is_told_for_each_choice_and_version() -> None:
    with pytest.raises(ProcessesDisagree) as caught:
        compare(0, 3, 4, told(lock(0.1, torch="2.9")), told(lock(0.2, torch="2.8")))
    assert caught.value.message == (
        "process 3 of 4 plans another run than process 0\n"
        "  - settings learning_rate: 0.1\n"
        "  + settings learning_rate: 0.2\n"
        "  - versions torch: 2.9\n"
        "  + versions torch: 2.8"
    )


def test_objects_given_from_python_are_told_by_their_type() -> None:
    first, second = (Lock((Setting("made", object(), "settings"),)) for _ in range(2))
    assert told(first) == told(second) == {"settings made": '"object"'}


def test_a_run_of_one_process_asks_nobody() -> None:
    agree(lambda: pytest.fail("the lock of a single process is not needed"))

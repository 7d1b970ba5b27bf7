"""A run that is stopped or killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from run_kit import SETTINGS, assert_same_run, finish, make_folder, start, wait_for

from tkernel_plugins.training.checkpoints import broken
from tkernel_plugins.training.sums import read_sums

EVALUATING = {"val_size": 3, "per_device_eval_batch_size": 1, "eval_strategy": "steps", "eval_steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that nothing stopped."""
    finish(folder, {**SETTINGS, **EVALUATING, "output_dir": "whole"})
    return folder / "whole"


def settings(name: str, **changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **EVALUATING, "output_dir": name, "resume_from_checkpoint": True, **changes}


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGINT, 130, "did step 5"), (signal.SIGTERM, 143, "evaluating")],
)
def test_a_signal_saves_after_the_step_and_the_run_goes_on_bitwise(
    folder: Path, whole: Path, number: int, code: int, moment: str
) -> None:
    name = f"stopped{code}"
    process = start(folder, settings(name), step=0.5)
    wait_for(process, moment)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == code, printed
    (step,) = re.findall(r"stopped after step (\d+) of 12", printed)
    checkpoint = folder / name / f"checkpoint-{step}"
    assert broken(checkpoint) is None
    assert read_sums(checkpoint, 0).evaluation_due == (moment == "evaluating")
    finish(folder, settings(name))
    assert_same_run(whole, folder / name)


def test_a_second_signal_stops_at_once(folder: Path) -> None:
    process = start(folder, settings("twice"), step=30)
    wait_for(process, "did step 1")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "a second one stops at once")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert not list((folder / "twice").glob("checkpoint-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_the_run_with_its_code(
    folder: Path, number: int, code: int
) -> None:
    process = start(folder, settings(f"early{code}"), step=0)
    while not (
        folder / f"early{code}" / "trace.jsonl"
    ).exists():  # the plan is made, the model is loaded next
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == code, printed
    assert "Traceback" not in printed, printed


def test_a_run_that_died_after_its_last_checkpoint_is_finished_with_the_same_log(
    folder: Path, whole: Path
) -> None:
    (folder / "late").mkdir()
    shutil.copytree(whole / "checkpoint-12", folder / "late" / "checkpoint-12")
    shutil.copy(whole / "trainer_log.jsonl", folder / "late")
    printed = finish(folder, settings("late"))
    assert "checkpoint-12 has done all 12 steps; nothing is left to train" in printed
    assert_same_run(whole, folder / "late")
    before = {path: path.stat() for path in (folder / "late").rglob("*.*") if path.name != "trace.jsonl"}
    assert "nothing is left to do" in finish(folder, settings("late"))
    assert {path: path.stat().st_mtime_ns for path in before} == {p: s.st_mtime_ns for p, s in before.items()}


def kill_at_random(folder: Path, whole: Path, count: int, seed: int) -> None:
    """Kill runs at moments between their start and their end, some twice; each goes on to the same end."""
    draw = random.Random(seed)
    for number in range(count):
        name = f"killed-{seed}-{number}"
        for _ in range(1 + number % 2):
            process = start(folder, settings(name), step=0.1)
            wait_for(process, "output  ")
            time.sleep(draw.uniform(0, 2.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        finish(folder, settings(name))
        assert not list((folder / name).glob("*.tmp")) + list((folder / name).glob("*.old"))
        assert_same_run(whole, folder / name)
        shutil.rmtree(folder / name)


def test_runs_that_are_killed_at_random_moments_end_with_the_same_bits(folder: Path, whole: Path) -> None:
    kill_at_random(folder, whole, 1, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_twenty_runs_that_are_killed_end_with_the_same_bits(folder: Path, whole: Path, seed: int) -> None:
    kill_at_random(folder, whole, 5, seed)

"""A run on a stream goes on, after it was stopped, exactly where it was, and several processes share it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import tkernel
from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel_plugins.data.streaming import Position
from tkernel_plugins.training.checkpoints import MANIFEST
from tkernel_plugins.training.log import read
from tkernel_plugins.training.position import FILE, EndlessSamples, read_position

ROWS = [
    {"instruction": f"How much is {n} and 1{' please' * (n % 3)}?", "input": "", "output": str(n + 1)}
    for n in range(23)
]
Run = Callable[..., Any]


def config(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """LoRA with dropout on a tiny model, twelve steps of two times two samples."""
    settings = {
        "model_name_or_path": str(folder / "model"),
        "dataset": str(folder / "rows.jsonl"),
        "output_dir": str(folder / name),
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_dropout": 0.1,
        "template": "chatml",
        "streaming": True,
        "buffer_size": 9,
        "preprocessing_batch_size": 5,
        "max_steps": 12,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 4,
        "use_cpu": True,
    }
    return {**settings, **changes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and a file of rows."""
    made = tmp_path_factory.mktemp("streams")
    tiny.save_model(made / "model")
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that was not interrupted."""
    tkernel.run(config(folder, "whole"))
    return folder / "whole"


def logged(output_dir: Path) -> list[list[Any]]:
    """What does not depend on the clock."""
    keys = ("current_steps", "loss", "lr", "epoch", "total_tokens")
    return [[line.get(key) for key in keys] for line in read(output_dir / "trainer_log.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    last = "checkpoint-12"
    for name in ("adapter_model.safetensors",):
        left, right = load_file(one / last / name), load_file(other / last / name)
        assert all(torch.equal(left[key], right[key]) for key in left)
    for name in ("optimizer.pt", "scheduler.pt"):
        assert (one / last / name).read_bytes() == (other / last / name).read_bytes()
    assert (one / last / FILE).read_text() == (other / last / FILE).read_text()
    assert (one / "data_report.json").read_text() == (other / "data_report.json").read_text()
    assert logged(one) == logged(other)


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(folder: Path, whole: Path, step: int) -> None:
    again = folder / f"again{step}"
    again.mkdir()
    shutil.copytree(whole / f"checkpoint-{step}", again / f"checkpoint-{step}")
    shutil.copy(whole / "trainer_log.jsonl", again)
    tkernel.run(config(folder, again.name, resume_from_checkpoint=True))
    assert_same_run(again, whole)
    assert read_position(whole / "checkpoint-12").epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_bitwise_with_and_without_workers(
    folder: Path, whole: Path, workers: int
) -> None:
    name = f"killed{workers}"
    settings = config(folder, name, dataloader_num_workers=workers)
    script = textwrap.dedent(
        """
        import json, os, signal, sys, tkernel
        from transformers import TrainerCallback

        class Kill(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 6:
                    os.kill(os.getpid(), signal.SIGKILL)

        tkernel.run(json.loads(sys.argv[1]), callbacks=[Kill()])
        """
    )
    killed = subprocess.run([sys.executable, "-c", script, json.dumps(settings)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / name / "checkpoint-8").exists()
    tkernel.run({**settings, "resume_from_checkpoint": True})
    assert_same_run(folder / name, whole)


def test_a_run_with_another_batch_size_goes_on_at_the_same_sample(folder: Path, whole: Path) -> None:
    name = "halves"
    (folder / name).mkdir()
    shutil.copytree(whole / "checkpoint-4", folder / name / "checkpoint-4")
    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    tkernel.run(config(folder, name, resume_from_checkpoint=True, **changes))
    assert (folder / name / "checkpoint-12" / FILE).read_text() == (
        whole / "checkpoint-12" / FILE
    ).read_text()


def test_resuming_without_a_position_or_with_other_data_is_an_error(folder: Path, whole: Path) -> None:
    for name in ("without", "other"):
        (folder / name).mkdir()
        shutil.copytree(whole / "checkpoint-4", folder / name / "checkpoint-4")
    for file in (FILE, MANIFEST):  # as a run without `streaming` in another program left it
        (folder / "without" / "checkpoint-4" / file).unlink()
    with pytest.raises(TkError, match=f"holds no {FILE}"):
        tkernel.run(config(folder, "without", resume_from_checkpoint=True))
    shutil.copy(folder / "rows.jsonl", folder / "other.jsonl")
    changes = {"dataset": str(folder / "other.jsonl"), "resume_from_checkpoint": True}
    with pytest.raises(TkError, match="the stream is not what it was: it read"):
        tkernel.run(config(folder, "other", **changes))


def test_what_was_read_is_printed_at_the_end_and_saved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"instruction": "q"}]
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"dataset": str(folder / "bad.jsonl"), "on_bad_row": "drop", "max_steps": 7, "save_steps": 100}
    tkernel.run(config(folder, "report", **changes))
    printed = capsys.readouterr().out
    assert f"stream     {folder / 'bad.jsonl'}: read and encoded while training" in printed
    assert "stream so far: 1 times whole, then to" in printed
    assert "rejected   1: 1 no column `output`; first" in printed
    (counts,) = json.loads((folder / "report" / "data_report.json").read_text())["datasets"]
    assert (counts["read"], counts["kept"], counts["first_rejected"][0]["line"]) == (24, 23, 24)


def test_a_bad_row_in_the_middle_of_training_is_named(folder: Path) -> None:
    rows = [*ROWS * 6, {"instruction": "q"}]
    (folder / "late.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TkError, match=r"late\.jsonl:139: no column `output`"):
        tkernel.run(config(folder, "late", dataset=str(folder / "late.jsonl"), max_steps=100, save_steps=4))
    assert (folder / "late" / "checkpoint-4").exists()


def test_evaluation_during_training_does_not_move_the_stream(folder: Path, whole: Path) -> None:
    rows = [{"instruction": "Who?", "output": "Me."}] * 3
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"eval_dataset": str(folder / "held_out.jsonl"), "eval_strategy": "steps", "eval_steps": 3}
    tkernel.run(config(folder, "evaluated", **changes))
    one, other = (read_position(path / "checkpoint-12") for path in (folder / "evaluated", whole))
    assert replace(one, counted={}) == replace(other, counted={})


# -- processes and workers -------------------------------------------------------------------------


class Numbers:
    """A stream of ten numbers a pass."""

    def endless(self, start: Position) -> Iterator[tuple[dict[str, Any], Position]]:
        for number in range(start.epoch * 10 + start.sample, 10_000):
            yield {"number": number}, Position(number // 10, 0, number % 10 + 1)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_samples_of_every_batch_and_none_is_used_twice(processes: int) -> None:
    shares = [list(islice(EndlessSamples(Numbers(), 2, rank, processes), 12)) for rank in range(processes)]
    steps = [
        [sample["number"] for share in shares for sample in share[first : first + 2]]
        for first in range(0, 12, 2)
    ]
    assert [number for step in steps for number in step] == list(range(12 * processes))
    ends = [[share[index]["position"] for share in shares] for index in range(12)]
    assert all(position == one[0] for one in ends for position in one)
    last = ends[-1][0]
    again = EndlessSamples(Numbers(), 2, 0, processes)
    again.start = Position(last.epoch, 0, last.sample)
    assert next(iter(again))["number"] == 12 * processes


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_does_not_depend_on_the_workers(workers: int) -> None:
    def batches(workers: int) -> list[list[int]]:
        samples = EndlessSamples(Numbers(), 2)
        loader = DataLoader(samples, batch_size=2, num_workers=workers, collate_fn=list)
        return [[sample["number"] for sample in batch] for batch in islice(loader, 7)]

    assert batches(workers) == batches(0)


@pytest.mark.slow
def test_two_processes_train_what_one_with_the_larger_batch_does(folder: Path) -> None:
    results = []
    for processes, size in ((1, 2), (2, 1)):
        name = f"processes{processes}"
        changes = {"per_device_train_batch_size": size, "lora_dropout": 0.0, "val_size": 3}
        script = "import json, sys, tkernel; tkernel.run(json.loads(sys.argv[1]))"
        (folder / "run.py").write_text(script)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        command += [str(folder / "run.py"), json.dumps(config(folder, name, **changes))]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        position = json.loads((folder / name / "checkpoint-12" / FILE).read_text())
        results.append((logged(folder / name), position))
    (losses, position), (other, other_position) = results
    assert position == other_position
    for mine, theirs in zip(losses, other, strict=True):
        numbers = [[value or 0.0 for value in line] for line in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)

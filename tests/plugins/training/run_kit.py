"""Runs of `tk run` in processes of their own, which can be stopped and killed, and what two runs must share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tkernel.testing import tiny

TIMING = frozenset(
    f"{split}_{what}"
    for split in ("train", "eval")
    for what in ("runtime", "samples_per_second", "steps_per_second")
) | {"elapsed_time", "remaining_time", "throughput"}
"""Fields that the clock decides."""

SETTINGS: Mapping[str, Any] = {
    "model_name_or_path": "model",
    "dataset": "rows.jsonl",
    "template": "chatml",
    "finetuning_type": "lora",
    "lora_rank": 4,
    "lora_dropout": 0.1,
    "max_steps": 12,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 5,
    "save_steps": 3,
    "use_cpu": True,
}


def make_folder(folder: Path) -> Path:
    """A tiny model with dropout, and rows."""
    tiny.save_model(folder / "model", attention_dropout=0.1)
    rows = [
        {"instruction": f"How much is {n} and 1{' please' * (n % 3)}?", "output": f"{n + 1} " * (1 + n % 5)}
        for n in range(23)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SLOW = """
import os, sys, time
from tkernel.cli.app import main
from transformers import TrainerCallback
import transformers.trainer

class Told(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        print("did step", state.global_step, flush=True)
        time.sleep(float(os.environ["TK_STEP"]))

    def on_prediction_step(self, args, state, control, **_):
        print("evaluating", flush=True)
        time.sleep(float(os.environ["TK_STEP"]))

old = transformers.trainer.Trainer.__init__
def init(self, *args, **kwargs):
    old(self, *args, **kwargs)
    self.add_callback(Told())
transformers.trainer.Trainer.__init__ = init
sys.argv[0] = "tk"
main()
"""
"""`tk`, but a step takes some time and says when it is done."""


def start(folder: Path, settings: Mapping[str, Any], step: float | None = None) -> subprocess.Popen[str]:
    """`tk run` with these settings, in `folder`; each step takes `step` seconds longer."""
    words = [
        f"{key}={json.dumps(value) if not isinstance(value, str) else value}"
        for key, value in settings.items()
    ]
    program = ["-m", "tkernel"] if step is None else ["-c", SLOW]
    return subprocess.Popen(
        [sys.executable, *program, "run", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TK_STEP": str(step)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, settings: Mapping[str, Any]) -> str:
    """What a run prints that ends well."""
    process = start(folder, settings)
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    return printed


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints up to the line that has `text`."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was never printed:\n{''.join(lines)}")


def untimed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A log without what the clock decides."""
    return {key: value for key, value in entry.items() if key not in TIMING}


def logged(output_dir: Path) -> list[list[dict[str, Any]]]:
    """`trainer_log.jsonl`, and the history in `trainer_state.json`."""
    lines = [json.loads(line) for line in (output_dir / "trainer_log.jsonl").read_text().splitlines()]
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    return [[untimed(entry) for entry in entries] for entries in (lines, history)]


def assert_same_run(one: Path, other: Path, last: str = "checkpoint-12") -> None:
    """Weights, optimizer, schedule, generators, sums, stream and logs agree in every bit."""
    for name in ("adapter_model.safetensors", "model.safetensors"):
        for left, right in ((one / name, other / name), (one / last / name, other / last / name)):
            assert left.exists() == right.exists(), left
            if left.exists():
                mine, theirs = load_file(left), load_file(right)
                assert mine.keys() == theirs.keys()
                assert all(torch.equal(mine[key], theirs[key]) for key in mine), left
    kept = sorted(path.name for path in (one / last).iterdir() if path.suffix in (".pt", ".pth"))
    kept += [name for name in ("sums.json", "stream_position.json") if (one / last / name).exists()]
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "sums.json"} <= set(kept)
    for name in kept:
        assert (one / last / name).read_bytes() == (other / last / name).read_bytes(), name
    assert logged(one) == logged(other)

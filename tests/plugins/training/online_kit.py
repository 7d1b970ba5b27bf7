"""Reward functions, and runs of stages that generate, on a tiny model."""

from __future__ import annotations

import random
from typing import Any

import tkernel
from tkernel.testing import tiny

COUNT = 6
ROWS = [{"prompt": f"Say {n}", "level": n} for n in range(COUNT)]
HERE = __file__


def low_bytes(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """The share of ids below 128: half of a random model's tokens have them."""
    return [sum(token < 128 for token in ids) / len(ids) for ids in columns["completion_ids"]]


def drawn(completions: Any, **columns: Any) -> list[float]:
    """Random numbers, from Python's own generator."""
    return [random.random() for _ in completions]


def train(folder: Any, name: str = "out", rows: Any = ROWS, **changes: Any) -> Any:
    """A run in `folder`, whose `model` is made if it is not there."""
    model = folder / "model"
    if not model.exists():
        tiny.save_model(model)
    config = {
        "model_name_or_path": str(model),
        "finetuning_type": "full",
        "template": "chatml",
        "output_dir": str(folder / name),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
    }
    held_out = changes.pop("held_out", None)
    return tkernel.run({**config, **changes}, train_dataset=rows, eval_dataset=held_out)


def parameters(result: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in result.bundle.module.named_parameters()}


def history(folder: Any, name: str, key: str = "reward") -> list[float]:
    """What was logged under `key`, step by step."""
    import json

    state = json.loads((folder / name / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]

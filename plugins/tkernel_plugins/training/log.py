"""`trainer_log.jsonl`: one line a log, with the fields that LLaMA-Factory's readers know."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "trainer_log.jsonl"


class TrainerLog(TrainerCallback):
    """Appends a line at every log.

    Fields: `current_steps`, `total_steps`, `loss` (training steps only), `eval_loss` (and other numbers
    of evaluations), `reward` and what goes with it where there is one, `lr`, `epoch`, `percentage`,
    `elapsed_time` and `remaining_time` (H:MM:SS, of this session), `throughput` (tokens per second) and `total_tokens` (padding left out, unless
    `include_num_input_tokens_seen: true` asks for all).
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / FILE
        self.started = monotonic()
        self.first_step = 0
        self.first_tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the file; a resumed run keeps the lines up to its checkpoint."""
        self.started, self.first_step = monotonic(), state.global_step
        self.first_tokens = state.num_input_tokens_seen
        self.keep(state)

    def keep(self, state: TrainerState) -> None:
        """Keep the lines up to the checkpoint from which `state` is; without one, none."""
        if not state.is_world_process_zero:
            return
        # A line is written with every entry of the state's history, which is that of the checkpoint.
        lines = read(self.path)[: len(state.log_history)]
        kept = [line for line in lines if line["current_steps"] <= state.global_step]
        draft = self.path.with_name(self.path.name + ".tmp")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(draft, self.path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a line."""
        if not state.is_world_process_zero or logs is None or not state.max_steps:
            return
        elapsed = monotonic() - self.started
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        tokens = state.num_input_tokens_seen
        line = {
            "current_steps": state.global_step,
            "total_steps": state.max_steps,
            "loss": logs.get("loss"),
            **{name: value for name, value in logs.items() if _is_evaluation(name) or _is_reward(name)},
            "lr": logs.get("learning_rate"),
            "epoch": logs.get("epoch"),
            "percentage": round(100 * state.global_step / state.max_steps, 2),
            "elapsed_time": _clock(elapsed),
            "remaining_time": _clock(elapsed / done * left if done else 0),
            "throughput": round((tokens - self.first_tokens) / elapsed, 2) if elapsed else None,
            "total_tokens": tokens,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: value for name, value in line.items() if value is not None}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a `trainer_log.jsonl`; none if there is no file."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # a run that was killed may leave half a line
            lines.append(json.loads(line))
    return lines


def _is_reward(name: str) -> bool:
    return name.removeprefix("eval_") in ("reward", "reward_std", "kl", "completions/mean_length")


def _is_evaluation(name: str) -> bool:
    return name.startswith("eval_") and name.endswith(("_loss", "_accuracy", "_perplexity"))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))

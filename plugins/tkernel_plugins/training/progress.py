"""What moves on the screen while training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tkernel_plugins.training.meter import Meter


def progress_callback(args: TrainingArguments, meter: Meter) -> TrainerCallback:
    """The bar if standard error is a terminal (and `disable_tqdm` is not set), else lines."""
    return ProgressBar(meter) if sys.stderr.isatty() and not args.disable_tqdm else ProgressLines(meter)


class ProgressLines(TrainerCallback):
    """One line every logging step and one for every evaluation."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Print what was logged."""
        if not state.is_world_process_zero or not logs:
            return
        evaluated = {
            k: v for k, v in logs.items() if k.startswith("eval_") and k.endswith(("_loss", "_accuracy"))
        }
        where = f"step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            reward = f"reward {logs['reward']:.4f}  " if "reward" in logs else ""
            print(
                f"{where}  epoch {logs.get('epoch', 0):.2f}  loss {logs['loss']:.4f}  {reward}"
                f"lr {logs.get('learning_rate', 0):.2e}  {self.meter.tokens_per_second:,.0f} tokens/s  "
                f"ETA {eta(self.meter, state)}",
                flush=True,
            )
        elif evaluated:
            values = "  ".join(f"{name} {value:.4f}" for name, value in evaluated.items())
            print(f"{where}  {values}", flush=True)


class ProgressBar(TrainerCallback):
    """A bar with loss, tokens/s (padding left out) and the time that is left."""

    def __init__(self, meter: Meter) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.meter = meter
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self.task: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Show the bar."""
        if state.is_world_process_zero:
            self.task = self.progress.add_task(
                "training", total=state.max_steps, completed=state.global_step, text=""
            )
            self.progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move it."""
        if self.task is not None:
            text = (
                f"loss {self.meter.loss:.4f}  {self.meter.tokens_per_second:,.0f} tokens/s  "
                f"ETA {eta(self.meter, state)}"
            )
            self.progress.update(self.task, description="training", completed=state.global_step, text=text)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that an evaluation is why it stands still."""
        if self.task is not None:
            self.progress.update(self.task, description="evaluating")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Keep the result of an evaluation above the bar."""
        if self.task is None or not metrics:
            return
        values = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.endswith(("_loss", "_accuracy")))
        self.progress.console.print(f"step {state.global_step}  {values}", highlight=False)
        self.progress.update(self.task, description="training")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the bar as it is."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back; called too when training ends with an error."""
        self.progress.stop()
        self.task = None


def eta(meter: Meter, state: TrainerState) -> str:
    """The time that the remaining steps will take, H:MM:SS."""
    return str(timedelta(seconds=int(meter.remaining(state.max_steps - state.global_step))))

"""How fast training steps are, evaluation and saving left out."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Throughput(TrainerCallback):
    """Counts steps, samples and tokens between the beginning and the end of optimizer steps.

    Tokens are those that the stage counts into `state.num_input_tokens_seen`: real ones, without padding,
    unless `include_num_input_tokens_seen: true` asks for all.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self.samples = 0
        self.tokens = 0
        self._since = 0.0
        self._tokens_before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A resumed run has seen tokens already."""
        self._tokens_before = state.num_input_tokens_seen
        self._since = perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock."""
        self._since = perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop it and count."""
        self.seconds += perf_counter() - self._since
        self.steps += 1
        self.samples += args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.tokens = state.num_input_tokens_seen - self._tokens_before

    def rates(self) -> dict[str, float]:
        """Per second of step time; empty if there was no step."""
        if not self.seconds:
            return {}
        return {
            "steps_per_s": self.steps / self.seconds,
            "samples_per_s": self.samples / self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
        }

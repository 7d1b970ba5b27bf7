"""Options that the stages share which generate while they train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tkernel.types.engine import Sampling
from tkernel_plugins.data.options import UnpackedOptions
from tkernel_plugins.training.options import TrainingOptions


@dataclass(frozen=True)
class OnlineOptions(UnpackedOptions, TrainingOptions, Sampling):
    """How completions are drawn and written down."""

    truncation: Literal["drop", "error"] = "drop"  # type: ignore[assignment]
    """What becomes of a prompt longer than `cutoff_len`; the engine is asked with whole conversations, so none is cut."""
    disable_dropout: bool = False
    """Train without dropout, so that the policy that is trained is the one that has generated."""
    logged_completions: int = field(default=4, metadata={"ge": 0})
    """Completions of each rollout that are written to `completions.jsonl` in `output_dir`; 0 writes none."""

    reward_model: str | None = None
    """A reward model: a folder or hub name, or the URL of a server."""
    reward_model_adapters: tuple[str, ...] = ()
    """Adapters of the reward model, each on top of those before it."""
    reward_timeout: float = field(default=60.0, metadata={"gt": 0})
    """Seconds to wait for an answer of a reward model behind an URL."""
    ref_model: str | None = None
    """The model that the policy is held to; unset, the policy as it was before training."""
    ref_model_adapters: tuple[str, ...] = ()
    """Adapters of the reference model."""


@dataclass(frozen=True)
class GroupOptions(OnlineOptions):
    """What `grpo` and `rloo` have in common; names and defaults are TRL's."""

    reward_funcs: tuple[str, ...] = field(default=(), metadata={"function": True})
    """Functions that reward completions, `pkg.mod:fn` or `./file.py:fn`, with TRL's signature."""
    reward_weights: tuple[float, ...] | None = None
    """Weight of each function's reward, and last that of `reward_model`; unset, all weigh 1."""
    num_generations: int = field(default=8, metadata={"ge": 2})
    """Completions of each prompt, whose rewards are compared; it must divide the completions of a rollout."""
    num_generations_eval: int | None = field(default=None, metadata={"ge": 1})
    """The same in evaluation; unset, as many."""
    max_completion_length: int = field(default=512, metadata={"ge": 1})
    """Longest completion in tokens."""
    temperature: float = field(default=1.0, metadata={"gt": 0})
    """Divides the logits, in generation and in the probabilities of the loss."""
    top_p: float = field(default=1.0, metadata={"gt": 0, "le": 1})
    """Draw from the most probable tokens that hold this share."""
    top_k: int = field(default=0, metadata={"ge": 0})
    """Draw from so many most probable tokens; 0 from all."""
    steps_per_generation: int | None = field(default=None, metadata={"ge": 1})
    """Micro-batches of a rollout; unset, `gradient_accumulation_steps`: one optimizer step."""
    num_iterations: int = field(default=1, metadata={"ge": 1})
    """How often a rollout is trained on."""
    epsilon: float = field(default=0.2, metadata={"ge": 0})
    """The ratio of probabilities is clipped to `1 - epsilon`, ..."""
    epsilon_high: float | None = field(default=None, metadata={"ge": 0})
    """... and to `1 + epsilon_high`; unset, `1 + epsilon`."""
    mask_truncated_completions: bool = False
    """Learn nothing from completions that did not end within `max_completion_length`."""

    def sampling(self) -> Sampling:
        """How the engine draws."""
        return Sampling(
            do_sample=True,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_new_tokens=self.max_completion_length,
            repetition_penalty=self.repetition_penalty,
        )

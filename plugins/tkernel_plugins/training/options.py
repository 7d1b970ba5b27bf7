"""Options that every training stage shares; a stage's own `Options` inherits them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingOptions:
    """What is done around the steps of a run."""

    plot_loss: bool = False
    """Draw the loss curve into `output_dir/training_loss.png` (and `training_eval_loss.png`)."""
    disable_shuffling: bool = False
    """Take the samples in the order of the data instead of a random one."""
    compute_accuracy: bool = False
    """Report `eval_accuracy`: the share of supervised tokens that the model ranks first."""
    include_effective_tokens_per_second: bool = False
    """Report `effective_tokens_per_sec`: tokens without padding per second of the whole run."""
    early_stopping_steps: int | None = field(default=None, metadata={"ge": 1})
    """Stop after this many evaluations without an improvement of `metric_for_best_model`."""

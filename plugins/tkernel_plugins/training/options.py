"""Options that every training stage shares; a stage's own `Options` inherits them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingOptions:
    """What is done around the steps of a run."""

    plot_loss: bool = field(default=False, metadata={"free": True})
    """Draw the loss curve into `output_dir/training_loss.png` (and `training_eval_loss.png`)."""
    disable_shuffling: bool = False
    """Take the samples in the order of the data instead of a random one."""
    compute_accuracy: bool = False
    """Report `eval_accuracy`: the share of supervised tokens that the model ranks first."""
    include_effective_tokens_per_second: bool = field(default=False, metadata={"free": True})
    """Report `effective_tokens_per_sec`: tokens without padding per second of the whole run."""
    early_stopping_steps: int | None = field(default=None, metadata={"ge": 1})
    """Stop after this many evaluations without an improvement of `metric_for_best_model`."""


@dataclass(frozen=True)
class PredictOptions:
    """How a stage predicts; how replies are drawn are the engine's options (`max_new_tokens`, `top_p`, ...)."""

    predict_with_generate: bool = False
    """With `do_predict`: generate replies to the evaluation data and compare them with its own."""
    eval_num_beams: int | None = field(default=None, metadata={"ge": 1})
    """Beams of these replies; unset, `num_beams`."""

"""The loss of next-token prediction, normalised over the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

IGNORED = -100
"""The label of a token that is not learned."""


def token_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | float | None = None,
    *,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross entropy of each token given those before it, summed and divided by `num_items_in_batch`.

    Args:
        outputs: a model's output with `logits`, (batch, length, vocabulary).
        labels: (batch, length); label `t` is predicted by the logits at `t - 1`, -100 is left out.
        num_items_in_batch: supervised tokens (sum of their weights) of all micro-batches and devices of
            one optimizer step; None takes those of this micro-batch.
        weights: (batch, length), the weight of each label.
        label_smoothing: share of the target that is spread over the whole vocabulary.

    Returns:
        A scalar. The sum over the micro-batches of a step is the weighted mean over its tokens.
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    targets = labels[:, 1:].reshape(-1)
    losses = F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
        targets.to(logits.device),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if weights is not None:
        losses = losses * weights[:, 1:].reshape(-1).to(losses)
    if num_items_in_batch is None:
        num_items_in_batch = supervised_weight(labels, weights)
    return losses.sum() / num_items_in_batch


def supervised_weight(labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """How many labels are predicted (position 0 never is), or the sum of their weights; a scalar."""
    predicted = labels[:, 1:].ne(IGNORED)
    return predicted.sum() if weights is None else (predicted * weights[:, 1:]).sum()


def right_predictions(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """How many supervised tokens get the highest logit; a scalar."""
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    targets = labels[:, 1:].to(logits.device)
    return (logits[:, :-1].argmax(-1).eq(targets) & targets.ne(IGNORED)).sum()

"""The losses of next-token prediction, normalised over the global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

IGNORED = -100
"""The label of a token that is not learned."""


TOP = 20
"""The tokens over which `eaft` measures how sure the model is."""


@dataclass(frozen=True)
class Objective:
    """The loss of one token.

    With p the probability that the model gives the token, and no gradient through what is in brackets:

    - `cross_entropy`: -log p; with `smoothing` s, (1 - s) times that plus s times the mean of -log over the
      whole vocabulary (Szegedy et al. 2015, arXiv:1512.00567).
    - `dft`: -[p] log p (Wu et al. 2025, arXiv:2508.05629).
    - `asft`: that of `dft` plus `alpha` KL(reference || model) over the whole vocabulary (Zhu et al. 2025,
      arXiv:2509.23753, in the direction that LLaMA-Factory computes).
    - `eaft`: -[(H / 3) ^ alpha] log p, where H is the entropy, in nats, of the `TOP` likeliest tokens among
      themselves and 3 is about its largest value, ln 20 (Diao et al. 2026, arXiv:2601.02151).
    """

    kind: Literal["cross_entropy", "dft", "asft", "eaft"] = "cross_entropy"
    alpha: float = 1.0
    smoothing: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross entropy and nothing else."""
        return self.kind == "cross_entropy" and not self.smoothing

    @property
    def is_anchored(self) -> bool:
        """Whether it needs the logits of a reference."""
        return self.kind == "asft"

    def losses(
        self, logits: torch.Tensor, targets: torch.Tensor, anchors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of each token, (tokens,).

        Args:
            logits: (tokens, vocabulary), float32 or better; `anchors`, those of the reference, are alike.
            targets: (tokens,), what should have been predicted.
        """
        logps = logits.log_softmax(-1)
        own = -logps.gather(1, targets[:, None])[:, 0]
        if self.kind == "cross_entropy":
            return (1 - self.smoothing) * own - self.smoothing * logps.mean(-1) if self.smoothing else own
        if self.kind == "eaft":
            with torch.no_grad():
                top = logits.topk(min(TOP, logits.shape[-1])).values.log_softmax(-1)
                gate = (-(top.exp() * top).sum(-1) / 3).clamp(min=0).pow(self.alpha)
            return gate * own
        weighted = own.detach().neg().exp() * own
        if anchors is None:
            if self.is_anchored:
                raise ValueError("asft compares with a reference, and no logits of one were given")
            return weighted
        anchor = anchors.log_softmax(-1)
        return weighted + self.alpha * (anchor.exp() * (anchor - logps)).sum(-1)


PLAIN = Objective()


def token_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | float | None = None,
    *,
    weights: torch.Tensor | None = None,
    objective: Objective = PLAIN,
    anchors: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of each token given those before it, summed and divided by `num_items_in_batch`.

    Args:
        outputs: a model's output with `logits`, (batch, length, vocabulary).
        labels: (batch, length); label `t` is predicted by the logits at `t - 1`, -100 is left out.
        num_items_in_batch: supervised tokens (sum of their weights) of all micro-batches and devices of
            one optimizer step; None takes those of this micro-batch.
        weights: (batch, length), the weight of each label.
        objective: the loss of a token.
        anchors: the logits of its reference, shaped as those of the model.

    Returns:
        A scalar. The sum over the micro-batches of a step is the weighted mean over its tokens.
    """
    if num_items_in_batch is None:
        num_items_in_batch = supervised_weight(labels, weights)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    targets = labels[:, 1:].reshape(-1).to(logits.device)
    logits = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    if weights is not None:
        weights = weights[:, 1:].reshape(-1).to(logits.device)
    if objective.kind == "cross_entropy":
        losses = F.cross_entropy(
            logits, targets, ignore_index=IGNORED, reduction="none", label_smoothing=objective.smoothing
        )
    else:
        where = targets.ne(IGNORED)
        if anchors is not None:
            anchors = anchors[:, :-1].reshape(-1, anchors.shape[-1])[where].float()
        losses = objective.losses(logits[where], targets[where], anchors)
        weights = None if weights is None else weights[where]
    total = losses.sum() if weights is None else (losses * weights).sum()
    return total / num_items_in_batch


def supervised_weight(labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """How many labels are predicted (position 0 never is), or the sum of their weights; a scalar."""
    predicted = labels[:, 1:].ne(IGNORED)
    return predicted.sum() if weights is None else (predicted * weights[:, 1:]).sum()


def right_predictions(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """How many supervised tokens get the highest logit; a scalar."""
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    targets = labels[:, 1:].to(logits.device)
    return (logits[:, :-1].argmax(-1).eq(targets) & targets.ne(IGNORED)).sum()

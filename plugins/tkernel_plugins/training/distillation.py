"""Learning a teacher's distributions: the divergence, and the trainer of `stage: distill`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tkernel_plugins.training.losses import IGNORED
from tkernel_plugins.training.stage_trainer import Batch
from tkernel_plugins.training.trainer import SupervisedTrainer


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float = 1.0
) -> torch.Tensor:
    """How far the student's distributions are from the teacher's, (tokens,) in nats; never negative.

    At `beta` 0 the forward divergence KL(teacher || student), at 1 the reverse one KL(student || teacher),
    between them the generalised Jensen-Shannon divergence of Generalized Knowledge Distillation
    (arXiv:2306.13649, equation 1): `beta KL(teacher || m) + (1 - beta) KL(student || m)` with the mixture
    `m = beta teacher + (1 - beta) student`. Gradients are not multiplied by the squared temperature.

    Args:
        student, teacher: logits, (tokens, vocabulary).
        temperature: divides both.
    """
    ours = (student / temperature).log_softmax(-1)
    theirs = (teacher / temperature).log_softmax(-1)
    if beta == 0:
        return _kl(theirs, ours)
    if beta == 1:
        return _kl(ours, theirs)
    mixture = torch.logaddexp(theirs + math.log(beta), ours + math.log1p(-beta))
    return beta * _kl(theirs, mixture) + (1 - beta) * _kl(ours, mixture)


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


class DistillationTrainer(SupervisedTrainer):
    """Trains on the batches of `SupervisedTrainer`, with the teacher's distribution at each supervised token as
    the label, and `ce_weight` of the loss on the data's own.

    Args:
        teacher: a frozen model with the vocabulary of the student. Where one has more logits than the other,
            the ones too many, which belong to no token, are left out.
        beta, temperature: see `divergence`.
        ce_weight: share of the cross entropy in the loss; the divergence has the rest.
    """

    surprise = "cross_entropy"

    def __init__(
        self,
        *args: Any,
        teacher: torch.nn.Module,
        beta: float,
        temperature: float,
        ce_weight: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.beta, self.temperature, self.ce_weight = beta, temperature, ce_weight

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The micro-batch's share of the loss: the weighted mean over supervised tokens."""
        if self.loss is not None:
            return super().batch_loss(model, inputs, items)
        labels, weights = inputs["labels"], inputs.get("weights")
        given = {name: value for name, value in inputs.items() if name not in ("labels", "weights")}
        outputs = model(**given)
        with torch.no_grad():
            target = self.teacher(**given).logits
        learned = labels[:, 1:] != IGNORED
        student, teacher = (_learned(logits, learned) for logits in (outputs.logits, target))
        size = min(student.shape[-1], teacher.shape[-1])
        student, teacher = student[:, :size], teacher[:, :size]
        kept = labels[:, 1:][learned]
        scale = torch.ones_like(student[:, 0]) if weights is None else weights[:, 1:][learned].to(student)
        distance = divergence(student, teacher, self.beta, self.temperature)
        surprise = torch.nn.functional.cross_entropy(student, kept, reduction="none")
        total = (1 - self.ce_weight) * distance + self.ce_weight * surprise
        for name, values in {"divergence": distance, "cross_entropy": surprise}.items():
            self.note(name, (values.detach() * scale).sum(), scale.sum())
        return (total * scale).sum() / items, outputs


def _learned(logits: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """The logits that predict learned tokens, (tokens, vocabulary), in float32 at least."""
    chosen = logits[:, :-1][learned]
    return chosen if chosen.dtype == torch.float64 else chosen.float()


def first_difference(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str | None:
    """Where two vocabularies differ, in words; None if they are the same."""
    if ours == theirs:
        return None
    names: Sequence[str] = sorted(ours.keys() | theirs.keys(), key=lambda name: (ours.get(name, -1), name))
    name = next(name for name in names if ours.get(name) != theirs.get(name))
    return f"{name!r} is {ours.get(name, 'no token')} here and {theirs.get(name, 'no token')} there"

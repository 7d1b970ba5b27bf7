"""The forward of a causal language model that ends in a loss and never holds the logits of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch

from tkernel_plugins.training.fused.apply import Fused
from tkernel_plugins.training.fused.head import linear_cross_entropy, linear_right
from tkernel_plugins.training.fused.model import IGNORED, SplitHead
from tkernel_plugins.training.fused.pieces import Piece, pieces_of
from tkernel_plugins.training.losses import PLAIN, Objective

FEW = 8
"""Gradients of a piece are taken at once where at most one parameter in so many is trained."""


@dataclass(frozen=True)
class Wanted:
    """What a call of the model shall give instead of logits."""

    items: torch.Tensor
    weights: torch.Tensor | None = None
    """(batch, length), the weight of each label."""
    objective: Objective = PLAIN
    reference: Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]] | None = None
    """Gives hidden states and output weight of the reference of an objective that has one."""
    count_right: bool = False
    """Count the labels that get the highest logit, too."""
    join: bool = True
    """Whether samples may share a row; not where something depends on the length of a row."""


@dataclass
class FusedForward:
    """Stands in for the forward of a model while it is trained; `undo` puts the model's own back.

    `model(**inputs, labels=labels, wanted=Wanted(...))` gives `{"loss": ..., "right": ...}`, through whatever
    is wrapped around the model (PEFT, DDP, autocast); a call without `wanted` is the model's own.

    Padding is left out of the calculation, samples of a micro-batch are joined where the model keeps them
    apart, and where few parameters are trained, gradients of each piece of the micro-batch are computed
    before the next piece, so that activations of one piece alone are held.
    """

    split: SplitHead
    longest: int
    """Tokens to which samples are joined; 0 where attention does not keep them apart."""
    by_row: bool
    """Whether rows are computed one by one where they cannot be joined."""
    parts: Fused = field(default_factory=Fused)
    undo_attention: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Take the place of the model's own forward."""
        self.split.model.forward = MethodType(self._forward(), self.split.model)

    def undo(self) -> None:
        """Leave the model as it was."""
        self.split.model.__dict__.pop("forward", None)
        self.parts.undo()
        self.undo_attention()

    def _forward(self) -> Callable[..., Any]:
        def forward(causal: Any, *args: Any, wanted: Wanted | None = None, **kwargs: Any) -> Any:
            if wanted is None:
                return type(causal).forward(causal, *args, **kwargs)
            return self._lost(kwargs, kwargs.pop("labels"), wanted)

        return forward

    def _lost(self, inputs: dict[str, Any], labels: torch.Tensor, wanted: Wanted) -> dict[str, torch.Tensor]:
        weights = wanted.weights
        scale = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.float()
        longest = self.longest if wanted.join else 0
        pieces = pieces_of(inputs, labels, scale / wanted.items, longest=longest, by_row=self.by_row)
        pieces = [piece for piece in pieces if piece.labels[:, 1:].ne(IGNORED).any()] or pieces[:1]
        right = torch.zeros((), dtype=torch.long, device=labels.device)

        def loss_of(piece: Piece) -> torch.Tensor:
            nonlocal right
            hidden = self.split.hidden(piece.inputs)
            weight, where = self.split.head.weight, piece.labels[:, 1:].ne(IGNORED)
            read, targets = hidden[:, :-1][where], piece.labels[:, 1:][where]
            anchor = None
            if wanted.reference is not None:
                with torch.no_grad():
                    states, matrix = wanted.reference(piece.inputs)
                anchor = (states[:, :-1][where], matrix)
            if wanted.count_right:
                right += linear_right(read.detach(), weight, targets)
            factors = piece.scale[:, 1:][where]
            return linear_cross_entropy(read, weight, targets, factors, wanted.objective, anchor)

        parameters = [p for p in self.split.model.parameters() if p.requires_grad]
        if len(pieces) > 1 and torch.is_grad_enabled() and self.takes_gradients():
            loss: torch.Tensor = _Eager.apply(loss_of, pieces, *parameters)
        else:
            loss = torch.stack([loss_of(piece) for piece in pieces]).sum()
        return {"loss": loss, "right": right}

    def takes_gradients(self) -> bool:
        """Whether gradients of a piece may be taken before the micro-batch's: they need a buffer of their
        own, and checkpointing may not know how."""
        causal = self.split.model
        if any(getattr(module, "gradient_checkpointing", False) for module in causal.modules()):
            return False
        everything = sum(parameter.numel() for parameter in causal.parameters())
        trained = sum(parameter.numel() for parameter in causal.parameters() if parameter.requires_grad)
        return 0 < trained * FEW <= everything


class _Eager(torch.autograd.Function):
    """The sum of the losses of pieces, whose gradients are there before the next piece is begun."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_of: Callable[[Piece], torch.Tensor],
        pieces: Sequence[Piece],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        gradients: list[torch.Tensor | None] = [None] * len(parameters)
        total = torch.zeros((), device=parameters[0].device)
        for piece in pieces:
            with torch.enable_grad():
                loss = loss_of(piece)
            total = total + loss.detach()
            for number, found in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
                held = gradients[number]
                if found is not None:
                    gradients[number] = found if held is None else held + found
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if held is None else held * gradient.to(held.dtype) for held in gradients)

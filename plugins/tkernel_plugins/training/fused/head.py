"""The output layer and its loss, without ever holding the logits of a batch.

Logits are made for `CHUNK` positions at a time and only where a token is predicted. For a vocabulary of
49,152, logits of one batch of 2 x 512 tokens take 200 MB in float32, and as much again for their gradient;
a chunk takes 25, its gradient is written over it, and the next chunk over that: to get fresh memory for
each costs more than the smaller products do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tkernel_plugins.training.fused.precision import computed_in
from tkernel_plugins.training.losses import PLAIN, Objective

CHUNK = 128
"""Positions whose logits are held at once."""


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    coefficients: torch.Tensor,
    objective: Objective = PLAIN,
    anchor: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The sum of `coefficients * objective(hidden @ weight.T, targets)`, a scalar in float32.

    Gradients are computed with the loss, from the same logits, as in Liger's fused linear cross entropy
    (Hsu et al. 2024, arXiv:2410.10989).

    Args:
        hidden: (positions, width).
        weight: (vocabulary, width), of the output layer.
        targets: (positions,), the token that each position predicts.
        coefficients: (positions,), float32; no gradient flows to them.
        objective: the loss of a token, by default its cross entropy.
        anchor: hidden states and output weight of the reference of an objective that has one.
    """
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, coefficients, objective, anchor)
    return loss


@torch.no_grad()
def linear_right(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How many targets get the highest logit, a scalar; arguments as in `linear_cross_entropy`."""
    dtype = computed_in(hidden)
    inputs, matrix = hidden.to(dtype), weight.to(dtype)
    right = torch.zeros((), dtype=torch.long, device=hidden.device)
    for start in range(0, len(targets), CHUNK):
        part = slice(start, start + CHUNK)
        right += (inputs[part] @ matrix.T).argmax(-1).eq(targets[part]).sum()
    return right


def linear_logps(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target, (positions,) in float32; arguments as in `linear_cross_entropy`.

    For losses that are no sum over tokens. The logits are computed again for the gradient.
    """
    logps: torch.Tensor = _LinearLogps.apply(hidden, weight, targets)
    return logps


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: torch.Tensor,
        objective: Objective,
        anchor: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        dtype = computed_in(hidden)
        inputs, matrix = hidden.to(dtype), weight.to(dtype)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=_summed_in(dtype), device=hidden.device)
        for part, logits, wide in _chunks(inputs, matrix):
            if objective.is_plain:
                logps = _softmax(logits, wide, targets[part])
                loss -= (logps * scale[part]).sum()
                of_logits = logits.copy_(_of_logits(wide, targets[part], scale[part]))
            else:
                anchors = None if anchor is None else anchor[0][part].to(dtype) @ anchor[1].to(dtype).T
                value, of_logits = _differentiated(objective, logits, targets[part], scale[part], anchors)
                loss += value
            if of_hidden is not None:
                of_hidden[part] = of_logits @ matrix
            if of_weight is not None:
                of_weight += of_logits.T @ inputs[part]
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        return (
            None if of_hidden is None else of_hidden * gradient.to(of_hidden.dtype),
            None if of_weight is None else (of_weight * gradient).to(ctx.dtype),
            *[None] * 4,
        )


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ctx.dtype = dtype = computed_in(hidden)
        inputs, matrix = hidden.to(dtype), weight.to(dtype)
        found = [_softmax(logits, wide, targets[part]) for part, logits, wide in _chunks(inputs, matrix)]
        ctx.save_for_backward(hidden, weight, targets)
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=_summed_in(dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        inputs, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for part, logits, wide in _chunks(inputs, matrix):
            _softmax(logits, wide, targets[part])
            of_logits = logits.copy_(_of_logits(wide, targets[part], -gradient[part]))
            if of_hidden is not None:
                of_hidden[part] = of_logits @ matrix
            if of_weight is not None:
                of_weight += of_logits.T @ inputs[part]
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None


def _differentiated(
    objective: Objective,
    logits: torch.Tensor,
    targets: torch.Tensor,
    scale: torch.Tensor,
    anchors: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scaled sum of an objective, and its gradient with respect to the logits, in their precision."""
    wide = logits.to(_summed_in(logits.dtype)).detach().requires_grad_()
    with torch.enable_grad():
        losses = objective.losses(wide, targets, None if anchors is None else anchors.to(wide.dtype))
        value = (losses * scale).sum()
    return value.detach(), torch.autograd.grad(value, wide)[0].to(logits.dtype)


def _chunks(inputs: torch.Tensor, matrix: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Positions, their logits, and memory for these in float32 or better; the next ones are written over both."""
    most, dtype = (min(CHUNK, len(inputs)), len(matrix)), inputs.dtype
    logits = torch.empty(most, dtype=dtype, device=inputs.device)
    wide = logits if dtype == _summed_in(dtype) else torch.empty_like(logits, dtype=_summed_in(dtype))
    for start in range(0, len(inputs), CHUNK):
        part = slice(start, start + CHUNK)
        held = slice(len(inputs[part]))
        yield part, torch.mm(inputs[part], matrix.T, out=logits[held]), wide[held]


def _softmax(logits: torch.Tensor, wide: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the targets, in float32 or better; `wide` gets the probabilities of everything."""
    wide.copy_(logits)
    wide -= wide.amax(-1, keepdim=True)
    chosen = wide.gather(1, targets[:, None])[:, 0]
    total = wide.exp_().sum(-1, keepdim=True)
    wide.div_(total)
    return chosen - total[:, 0].log()


def _of_logits(probabilities: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The gradient of `-scale * logp` with respect to the logits, in place of `probabilities`."""
    probabilities *= scale[:, None].to(probabilities.dtype)
    rows = torch.arange(len(targets), device=targets.device)
    probabilities[rows, targets] -= scale.to(probabilities.dtype)
    return probabilities


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

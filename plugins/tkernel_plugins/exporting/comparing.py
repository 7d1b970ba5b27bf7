"""How far two models are apart, on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Renderer

BOUNDS = {torch.float32: 1e-6}
"""Largest mean divergence that counts as equal; the arithmetic of merging alone gives about 1e-10."""

HALF_BOUND = 1e-2
"""The same for weights that are rounded to 16 bits; that alone gives about 1e-4."""


@dataclass(frozen=True)
class Divergence:
    """Of the next token's distribution, over all positions of all prompts."""

    mean: float
    """Kullback-Leibler divergence in nats."""
    largest: float
    agreed: float
    """Share of positions at which both rank the same token first."""

    def __str__(self) -> str:
        return (
            f"mean divergence {self.mean:.2e} nats, largest {self.largest:.2e}, "
            f"same first token at {100 * self.agreed:.1f} % of positions"
        )


SCORE_BOUNDS = {torch.float32: 1e-4}
"""Largest mean difference of scores that counts as equal."""

HALF_SCORE_BOUND = 0.1
"""The same for weights that are rounded to 16 bits."""


@dataclass(frozen=True)
class ScoreGap:
    """Between the scores of two reward models, over the same replies."""

    mean: float
    """Absolute difference."""
    largest: float

    @classmethod
    def between(cls, expected: Sequence[float], found: Sequence[float]) -> ScoreGap:
        """Of scores of the same replies in the same order; one that is no number is infinitely far."""
        apart = (torch.tensor(expected, dtype=torch.float64) - torch.tensor(found, dtype=torch.float64)).abs()
        apart = torch.where(apart.isfinite(), apart, torch.inf)
        return cls(float(apart.mean()), float(apart.max()))

    def __str__(self) -> str:
        return f"mean difference of scores {self.mean:.2e}, largest {self.largest:.2e}"


def score_bound_for(dtype: torch.dtype) -> float:
    """What the scores of a model saved in `dtype` may differ by, in the mean, from those in float32."""
    return SCORE_BOUNDS.get(dtype, HALF_SCORE_BOUND)


def bound_for(dtype: torch.dtype) -> float:
    """What a model saved in `dtype` may differ by from the one in float32."""
    return BOUNDS.get(dtype, HALF_BOUND)


def logits_of(module: Any, renderer: Renderer, conversations: Iterable[Conversation]) -> list[torch.Tensor]:
    """The logits (length, vocabulary) of each prompt, in float32 on the CPU."""
    device = next(module.parameters()).device
    found = []
    with torch.no_grad():
        for conversation in conversations:
            ids = torch.tensor([renderer.prompt_ids(conversation)], device=device)
            found.append(module(input_ids=ids, use_cache=False).logits[0].float().cpu())
    return found


def divergence(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Divergence:
    """From `expected` to `found`, prompt by prompt; embeddings that were padded have no part in it."""
    each, agreed = [], []
    for one, other in zip(expected, found, strict=True):
        size = min(one.shape[-1], other.shape[-1])
        p, q = (F.log_softmax(logits[:, :size].double(), -1) for logits in (one, other))
        each.append((p.exp() * (p - q)).sum(-1))
        agreed.append(p.argmax(-1).eq(q.argmax(-1)))
    values, same = torch.cat(each), torch.cat(agreed).double()
    # A NaN is not small: it must not pass a comparison with the bound.
    values = torch.where(values.isfinite(), values, torch.inf)
    return Divergence(float(values.mean()), float(values.max()), float(same.mean()))

"""Proximal policy optimisation: its arithmetic. Source: arXiv:1707.06347, for language models arXiv:1909.08593."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SMALL = 1e-8


def token_rewards(
    score: float | torch.Tensor, logps: torch.Tensor, reference_logps: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """The reward of each token: `-kl_coef (log pi - log pi_ref)`, and the score on top at the last one.

    Args:
        logps, reference_logps: (length) of one completion.
    """
    rewards = -kl_coef * (logps - reference_logps)
    rewards[-1] += score
    return rewards


def generalised_advantages(
    rewards: torch.Tensor, values: torch.Tensor, gamma: float, decay: float
) -> torch.Tensor:
    """Generalised advantage estimation (arXiv:1506.02438): `A_t = d_t + gamma lambda A_(t+1)` with
    `d_t = r_t + gamma V_(t+1) - V_t`; after the last token there is neither value nor reward.

    Args:
        rewards, values: (length) of one completion; `values[t]` is that of the state before token t.
    """
    advantages = torch.zeros_like(values)
    following, advantage = torch.zeros(()).to(values), torch.zeros(()).to(values)
    for place in range(len(values) - 1, -1, -1):
        delta = rewards[place] + gamma * following - values[place]
        advantage = delta + gamma * decay * advantage
        advantages[place], following = advantage, values[place]
    return advantages


def moments(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Count, sum and sum of squares of all tokens, (3) in float64; what several processes have adds up."""
    every = torch.cat(list(rows)).double()
    return torch.stack(
        [torch.tensor(float(len(every)), dtype=torch.float64), every.sum(), every.square().sum()]
    )


def whitened(rows: Sequence[torch.Tensor], sums: torch.Tensor, *, shift: bool = True) -> list[torch.Tensor]:
    """Rows with variance 1, and mean 0 unless `shift` is False, over all of which `moments` gave `sums`."""
    count, total, squares = sums.tolist()
    mean = total / count
    variance = max(squares / count - mean**2, 0.0)
    scale = (variance + SMALL) ** -0.5
    return [(row - mean) * scale + (0.0 if shift else mean) for row in rows]


def clipped_policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`max(-A w, -A clip(w, 1 - clip, 1 + clip))` with `w = exp(logps - old_logps)`, and where clipping counts."""
    ratio = (logps - old_logps).exp()
    free, held = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, held), held > free


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the greater squared error of the value and of the value held within `clip` of the old one."""
    held = old_values + (values - old_values).clamp(-clip, clip)
    free_error, held_error = (values - returns).square(), (held - returns).square()
    return 0.5 * torch.maximum(free_error, held_error), held_error > free_error


@dataclass
class KlControl:
    """The weight of the KL penalty, which follows the divergence to its target (arXiv:1909.08593, section 2.2).

    Args:
        weight: where it starts.
        target: in nats for a whole completion.
        horizon: completions after which an error of 20 % has changed the weight by that much.
    """

    weight: float
    target: float
    horizon: float

    def update(self, divergence: float, completions: int) -> None:
        """After so many completions with this mean divergence."""
        error = min(max(divergence / self.target - 1, -0.2), 0.2)
        self.weight *= 1 + error * completions / self.horizon


@dataclass
class RunningScores:
    """Mean and deviation of all scores so far."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """The sum of squared distances from the mean."""

    def update(self, sums: torch.Tensor) -> None:
        """Take in a rollout's scores, of which `moments` gave `sums`."""
        count, total, squares = sums.tolist()
        mean, whole = total / count, self.count + count
        distance = mean - self.mean
        self.squares += max(squares - count * mean**2, 0.0) + distance**2 * self.count * count / whole
        self.mean += distance * count / whole
        self.count = whole

    def normalised(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores less the mean, divided by the deviation (n - 1)."""
        deviation = (self.squares / max(self.count - 1, 1.0)) ** 0.5
        return (scores - self.mean) / (deviation + SMALL)

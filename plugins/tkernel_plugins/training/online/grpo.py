"""Group-relative policy optimisation: advantages of a group, its losses, and its trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tkernel.types.engine import Reply
from tkernel_plugins.training.online.samples import Sample, completion_logits, entropy_of, logps_of
from tkernel_plugins.training.online.trainer import OnlineTrainer
from tkernel_plugins.training.stage_trainer import Batch

SMALL = 1e-4
"""Added to a standard deviation that divides, as in TRL."""


def group_advantages(
    rewards: torch.Tensor, generations: int, scale: str = "group", batch_std: torch.Tensor | None = None
) -> torch.Tensor:
    """How much better each completion is than the others of its prompt.

    `(r - mean(group)) / (std + 1e-4)`, with the standard deviation (of a sample, n - 1) of the group, of the
    batch, or none. A group sums to zero. A completion without a reward (NaN) counts in neither, and its
    advantage is 0. Source: DeepSeekMath (arXiv:2402.03300), equation 3; `none` is Dr. GRPO (arXiv:2503.20783).

    Args:
        rewards: (completions), those of one prompt next to each other.
        scale: `group`, `batch` or `none`.
        batch_std: that of the rewards of all processes, for `batch`.
    """
    groups = rewards.view(-1, generations)
    advantages = groups - groups.nanmean(1, keepdim=True)
    if scale == "group":
        advantages = advantages / (nan_std(groups, 1) + SMALL)
    elif scale == "batch":
        advantages = advantages / (
            (nan_std(groups.view(1, -1), 1) if batch_std is None else batch_std) + SMALL
        )
    return advantages.nan_to_num(0.0).view(-1)


def nan_std(values: torch.Tensor, dim: int) -> torch.Tensor:
    """The standard deviation (n - 1) along a dimension, which is kept, without NaN; 0 of a single value."""
    count = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()


def policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    options: Any,
    reference_logps: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each token, (batch, width), and what is worth reporting of it, in the same shape.

    With `w = exp(logps - old_logps)` it is `-min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A)`, plus
    `beta` times the estimate `exp(d) - d - 1` of the KL divergence, `d = reference_logps - logps`, which is
    never negative. `importance_sampling_level: sequence` takes the mean of the logarithms over the
    completion (GSPO, arXiv:2507.18071). `loss_type` cispo (arXiv:2506.13585), sapo (arXiv:2511.20347) and
    vespo (arXiv:2602.10693) replace the clipped term.

    Args:
        logps, old_logps, reference_logps: (batch, width).
        advantages: (batch).
        mask: (batch, width), 1 at learned tokens.
        options: of `stage: grpo`.
    """
    advantages = advantages.unsqueeze(1)
    high = options.epsilon if options.epsilon_high is None else options.epsilon_high
    log_ratio = (logps - old_logps) * mask
    log_weight = log_ratio
    if options.importance_sampling_level == "sequence":
        log_weight = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    ratio = log_weight.exp().expand_as(mask)
    noted = {
        "clip_ratio": ((ratio < 1 - options.epsilon) & (advantages < 0))
        | ((ratio > 1 + high) & (advantages > 0))
    }
    if options.loss_type == "cispo":
        loss = -ratio.clamp(max=high).detach() * advantages * logps
        noted = {"clip_ratio": (ratio > high) & (advantages > 0)}
    elif options.loss_type == "sapo":
        heat = torch.where(advantages > 0, options.sapo_temperature_pos, options.sapo_temperature_neg)
        loss = -torch.sigmoid(heat * (ratio - 1)) * 4 / heat * advantages
        noted = {}
    elif options.loss_type == "vespo":
        weight = gamma_weight(log_ratio.sum(1, keepdim=True).detach(), advantages, options)
        loss = -weight * advantages * logps
        noted = {}
    else:
        clipped = ratio.clamp(1 - options.epsilon, 1 + high)
        whole = ratio if options.delta is None else ratio.clamp(max=options.delta)
        loss = -torch.min(whole * advantages, clipped * advantages)
    if reference_logps is not None:
        distance = (reference_logps - logps) * mask
        kl = distance.exp() - distance - 1
        kl = kl * ratio if options.use_bias_correction_kl else kl
        loss = loss + options.beta * kl
        noted["kl"] = kl
    return loss, noted


def gamma_weight(log_ratio: torch.Tensor, advantages: torch.Tensor, options: Any) -> torch.Tensor:
    """VESPO's weight `exp(l + k log w - l w)` of a completion with the ratio w, (batch, 1); 1 at w = 1."""
    is_good = advantages >= 0
    power = torch.where(is_good, options.vespo_k_pos, options.vespo_k_neg)
    rate = torch.where(is_good, options.vespo_lambda_pos, options.vespo_lambda_neg).clamp(min=1e-4)
    log_ratio = log_ratio.clamp(-18.4, 20.0)  # of a weight that is 0 in either direction
    return (rate + power * log_ratio - rate * log_ratio.exp()).exp().nan_to_num(0.0, 0.0, 0.0)


class GrpoTrainer(OnlineTrainer):
    """GRPO with the losses that TRL offers under `loss_type`."""

    def experience(
        self, samples: list[Sample], rewards: torch.Tensor, replies: Sequence[Reply], generations: int
    ) -> None:
        """Advantages; log-probabilities of the policy that has generated, if it will be another, and of the
        reference."""
        advantages = self.advantages(rewards, generations)
        groups = nan_std(rewards.view(-1, generations), 1)
        self.note("frac_reward_zero_std", (groups < 1e-8).sum(), len(groups))
        for sample, advantage, reply in zip(samples, advantages.tolist(), replies, strict=True):
            sample["advantages"] = advantage
            cut = self.options.mask_truncated_completions and reply.finish_reason == "length"
            sample["learned"] = not cut
        if self.model.training and self.steps * self.iterations > 1:
            for sample, logps in zip(samples, self.score(samples, self.model), strict=True):
                sample["old_logps"] = logps
        if self.reference is not None:
            with self.reference as module:
                scored = self.score(samples, module)
            for sample, logps in zip(samples, scored, strict=True):
                sample["reference_logps"] = logps

    def advantages(self, rewards: torch.Tensor, generations: int) -> torch.Tensor:
        """See `group_advantages`."""
        spread = None
        if self.options.scale_rewards == "batch" and self.args.world_size > 1:
            everywhere = self.accelerator.gather(rewards.to(self.args.device)).cpu()
            spread = nan_std(everywhere.view(1, -1), 1)
        return group_advantages(rewards, generations, self.options.scale_rewards, spread)

    def items_of(self, batch: Batch) -> torch.Tensor:
        """What the loss is divided by: learned tokens, or completions, or these times their greatest length."""
        kind, count = self.options.loss_type, torch.tensor(float(len(batch["mask"])))
        if kind in ("grpo", "sapo", "luspo"):
            return count
        return count * self.options.max_completion_length if kind == "dr_grpo" else batch["mask"].sum()

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The micro-batch's share of the loss."""
        logits = completion_logits(model, inputs)
        logps, mask = logps_of(logits, inputs, self.temperature), inputs["mask"].to(logits.dtype)
        with torch.no_grad():
            entropy = entropy_of(logits, self.temperature)
        loss, noted = policy_loss(
            logps,
            inputs["old_logps"] if "old_logps" in inputs else logps.detach(),
            inputs["advantages"].to(logps.dtype),
            mask,
            self.options,
            inputs.get("reference_logps"),
        )
        for name, values in {"entropy": entropy, **noted}.items():
            self.note(name, (values.detach() * mask).sum(), mask.sum())
        loss = (loss * mask).sum(1)
        if self.options.loss_type in ("grpo", "sapo"):
            loss = loss / mask.sum(1).clamp(min=1)
        return loss.sum() / items, noted

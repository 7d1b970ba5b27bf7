"""REINFORCE with the other completions of a prompt as the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tkernel.types.engine import Reply
from tkernel_plugins.training.online.grpo import SMALL, nan_std
from tkernel_plugins.training.online.samples import Sample, completion_logits, entropy_of, logps_of
from tkernel_plugins.training.online.trainer import OnlineTrainer
from tkernel_plugins.training.stage_trainer import Batch


def leave_one_out(rewards: torch.Tensor, generations: int) -> torch.Tensor:
    """Each completion's reward less the mean reward of the others of its prompt, (completions).

    Without a reward (NaN), or alone with one, the advantage is 0. Source: Back to Basics (arXiv:2402.14740),
    equation 8.
    """
    groups = rewards.view(-1, generations)
    others = (~groups.isnan()).sum(1, keepdim=True) - 1
    baseline = (groups.nansum(1, keepdim=True) - groups) / others.clamp(min=1)
    return torch.where(others > 0, groups - baseline, 0.0).nan_to_num(0.0).view(-1)


def sequence_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    low: float,
    high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each completion, (batch), and whether it is clipped.

    `-min(w A, clip(w, 1 - low, 1 + high) A)`, with w the ratio of the probabilities of whole completions.

    Args:
        logps, old_logps, mask: (batch, width).
        advantages: (batch).
    """
    ratio = ((logps - old_logps) * mask).sum(1).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return loss, ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))


class RlooTrainer(OnlineTrainer):
    """RLOO; the KL divergence from the reference is part of the reward, as in TRL."""

    def experience(
        self, samples: list[Sample], rewards: torch.Tensor, replies: Sequence[Reply], generations: int
    ) -> None:
        """Log-probabilities, rewards less the divergence, advantages."""
        clip = self.options.reward_clip_range
        rewards = rewards if clip is None else rewards.clamp(*clip)
        old = self.score(samples, self.model)
        if self.reference is not None:
            with self.reference as module:
                reference = self.score(samples, module)
            kl = torch.stack([(a - b).double().sum() for a, b in zip(old, reference, strict=True)])
            self.note("kl", kl.sum(), sum(map(len, old)))
            rewards = rewards - self.options.beta * kl
        advantages = leave_one_out(rewards, generations)
        if self.options.normalize_advantages:
            everywhere = advantages
            if self.args.world_size > 1:
                everywhere = self.accelerator.gather(advantages.to(self.args.device)).cpu()
            spread = nan_std(everywhere.view(1, -1), 1).squeeze()
            advantages = (advantages - everywhere.mean()) / (spread + SMALL)
        for sample, advantage, logps, reply in zip(samples, advantages.tolist(), old, replies, strict=True):
            cut = self.options.mask_truncated_completions and reply.finish_reason == "length"
            sample |= {"advantages": advantage, "old_logps": logps, "learned": not cut}

    def items_of(self, batch: Batch) -> torch.Tensor:
        """The completions of the micro-batch."""
        return torch.tensor(float(len(batch["mask"])))

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The micro-batch's share of the mean over completions."""
        logits = completion_logits(model, inputs)
        logps, mask = logps_of(logits, inputs, self.temperature), inputs["mask"].to(logits.dtype)
        high = self.options.epsilon if self.options.epsilon_high is None else self.options.epsilon_high
        advantages = inputs["advantages"].to(logps.dtype)
        loss, clipped = sequence_loss(
            logps, inputs["old_logps"], advantages, mask, self.options.epsilon, high
        )
        with torch.no_grad():
            entropy = entropy_of(logits, self.temperature)
        self.note("entropy", (entropy * mask).sum(), mask.sum())
        self.note("clip_ratio", clipped.sum(), len(clipped))
        return loss.sum() / items, {"clipped": clipped}

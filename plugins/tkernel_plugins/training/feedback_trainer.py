"""The trainer of KTO: learning from replies of which each was liked or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tkernel_plugins.training.preference_options import FeedbackOptions
from tkernel_plugins.training.reference_logps import Reference
from tkernel_plugins.training.reference_trainer import NOT_INPUT, ReferenceTrainer
from tkernel_plugins.training.sequence_rows import joined
from tkernel_plugins.training.stage_trainer import Batch
from tkernel_plugins.training.sums import Sums
from tkernel_plugins.training.token_logps import TokenLogps


@dataclass(frozen=True)
class Judged:
    """Completions and how each was judged, all of shape (n,); log-probabilities are sums over tokens."""

    logps: torch.Tensor
    ref_logps: torch.Tensor
    tokens: torch.Tensor
    liked: torch.Tensor
    divergence: torch.Tensor
    """The estimate of the KL divergence between policy and reference, a scalar of at least 0."""

    @property
    def ratio(self) -> torch.Tensor:
        """`log pi(y|x) - log pi_ref(y|x)`."""
        return self.logps - self.ref_logps


def kto_losses(judged: Judged, options: FeedbackOptions) -> torch.Tensor:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7 and 8), (n,)."""
    sign = torch.where(judged.liked, 1.0, -1.0).to(judged.logps)
    weight = torch.where(judged.liked, options.kto_chosen_weight, options.kto_rejected_weight)
    value = torch.sigmoid(options.pref_beta * sign * (judged.ratio - judged.divergence))
    return weight.to(value) * (1 - value)


class FeedbackTrainer(ReferenceTrainer):
    """Trains on judged completions; the loss of a step is the mean over them.

    The divergence is estimated in each micro-batch, over all processes, from completions that belong to other
    prompts; no gradient flows through it. Logs `kl`, of liked completions `rewards/chosen`, `logps/chosen`, of
    the others `rewards/rejected`, `logps/rejected`, and the difference of the two rewards,
    `rewards/margins`.
    """

    options: FeedbackOptions

    def batch_loss(self, model: Any, inputs: Batch, items: torch.Tensor) -> tuple[torch.Tensor, Judged]:
        """The sum of the losses of the completions, divided by `items`, and the completions."""
        judged = self.judged(model, inputs)
        losses = kto_losses(judged, self.options)
        if self.options.pref_ftx:
            losses = losses - self.options.pref_ftx * judged.liked * judged.logps / judged.tokens
        self._note(judged)
        return losses.sum() / items, judged

    def judged(self, model: Any, batch: Batch) -> Judged:
        """Log-probabilities of policy and reference, and the divergence."""
        own = self._completions(model, batch, mismatched=False)
        with torch.no_grad():
            mismatched = self._completions(model, batch, mismatched=True).sums()
        reference = self.reference_logps(batch)
        if reference is None:
            raise TypeError("KTO needs a reference")
        difference = (mismatched - reference[1].to(mismatched)).mean()
        if self.args.world_size > 1:
            difference = self.accelerator.gather(difference.unsqueeze(0)).mean()
        logps = own.sums()
        return Judged(
            logps, reference[0].to(logps), own.counts(), batch["label"], difference.clamp(min=0).to(logps)
        )

    def _completions(self, model: Any, batch: Batch, *, mismatched: bool) -> TokenLogps:
        with self.accelerator.autocast():
            if self.joined and "parts" in batch:
                return self.scorer.row(model, joined(batch["alone"][mismatched]))
            return self.scorer.padded(model, side_of(batch, mismatched=mismatched))

    def reference_of_batch(self, reference: Reference, batch: Batch) -> torch.Tensor:
        """(2, completions): of the completions and of the mismatched ones."""
        sides = [side_of(batch, mismatched=mismatched) for mismatched in (False, True)]
        return torch.stack([reference.of_batch(side) for side in sides])

    def _note(self, judged: Judged) -> None:
        rewards = (self.options.pref_beta * judged.ratio).detach()
        logps, count = judged.logps.detach(), float(len(rewards))
        self.note("kl", float(judged.divergence) * count, count)
        for name, which in (("chosen", judged.liked), ("rejected", ~judged.liked)):
            sums = [(rewards * which).sum(), (logps * which).sum()]
            self.note_all([f"rewards/{name}", f"logps/{name}"], sums, float(which.sum()))

    def _means(self, counted: Sums) -> dict[str, float]:
        means = super()._means(counted)
        if {"rewards/chosen", "rewards/rejected"} <= means.keys():
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means


def side_of(batch: Batch, *, mismatched: bool) -> Batch:
    """The completions of a padded batch, or the mismatched ones, as a model takes them with their labels."""
    names = ("input_ids", "attention_mask", "labels", "weights")
    prefix = "KL_" if mismatched else ""
    side = {name: batch[prefix + name] for name in names if prefix + name in batch}
    ours = {*names, *(f"KL_{name}" for name in names), "KL_completion_mask", *NOT_INPUT}
    media = {name: value for name, value in batch.items() if name not in ours}
    return side | media

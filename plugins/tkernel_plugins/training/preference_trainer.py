"""The trainer of preference optimisation: DPO and its relatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tkernel_plugins.training.preference_losses import Pairs, binary_classifier, loss_of, odds_ratio
from tkernel_plugins.training.preference_options import PreferenceOptions
from tkernel_plugins.training.reference_trainer import ReferenceTrainer
from tkernel_plugins.training.stage_trainer import Batch
from tkernel_plugins.training.token_logps import TokenLogps

BASELINE = "bco_baseline.json"


class PreferenceTrainer(ReferenceTrainer):
    """Trains on pairs; the loss of a step is the mean over its pairs.

    Logs `rewards/chosen` and `rewards/rejected` (`beta` times the log-ratio; without a reference, `beta` times
    the mean log-probability), their difference `rewards/margins`, how often it is positive
    (`rewards/accuracies`), and `logps/chosen`, `logps/rejected`; of `orpo` also `sft_loss`, `odds_ratio_loss`.
    """

    options: PreferenceOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss_of(self.options.pref_loss)
        self.baseline = [0.0, 0.0]
        """Sum and number of the rewards so far, of which BCO's baseline is the mean."""

    def batch_loss(self, model: Any, inputs: Batch, items: torch.Tensor) -> tuple[torch.Tensor, Pairs]:
        """The sum of the losses of the pairs, divided by `items`, and the pairs."""
        pairs = self.pairs(model, inputs)
        losses = self.loss(pairs, self.options)
        if self.options.pref_bco_weight:
            weight = self.options.pref_bco_weight
            classifier = binary_classifier(pairs, self.options.pref_beta, self._baseline(pairs))
            losses = (losses + weight * classifier) / (1 + weight)
        if self.options.pref_ftx:
            losses = losses - self.options.pref_ftx * pairs.chosen_mean
        self._note(pairs)
        return losses.sum() / items, pairs

    def pairs(self, model: Any, batch: Batch) -> Pairs:
        """Log-probabilities of policy and reference."""
        tokens = self.policy(model, batch)
        plain = self.by_sample(batch, tokens.sums())
        counts = self.by_sample(batch, tokens.counts())
        alpha = self.options.ld_alpha
        counted = plain
        if alpha is not None:
            counted = self.by_sample(batch, tokens.sums(self._length_desensitised(batch, tokens, alpha)))
        reference = self.reference_logps(batch)
        reference = torch.zeros_like(plain) if reference is None else reference.to(plain.dtype)
        return Pairs(*counted, *reference, *counts)

    def _length_desensitised(self, batch: Batch, tokens: TokenLogps, alpha: float) -> torch.Tensor:
        """(tokens,), 1 up to the length of the shorter reply of the pair, then `alpha` (LD-DPO)."""
        lengths = self.by_sample(batch, torch.tensor(tokens.lengths))
        shorter = lengths.min(0).values.expand_as(lengths)
        flat = shorter.T.reshape(-1) if self.joined and "parts" in batch else shorter.reshape(-1)
        scale = [
            torch.cat([torch.ones(short), torch.full((length - short,), alpha)])
            for length, short in zip(tokens.lengths, flat.tolist(), strict=True)
        ]
        return torch.cat(scale).to(tokens.values)

    def _baseline(self, pairs: Pairs) -> float:
        """The mean of all rewards so far; those of this micro-batch are among them, in training."""
        rewards = self.options.pref_beta * torch.cat([pairs.chosen_ratio, pairs.rejected_ratio]).detach()
        now = torch.stack([rewards.sum().double(), rewards.new_tensor(len(rewards)).double()])
        if self.args.world_size > 1:
            now = self.accelerator.gather(now.unsqueeze(0)).sum(0)
        if self.model.training:
            self.baseline = [before + new for before, new in zip(self.baseline, now.tolist(), strict=True)]
        total, count = self.baseline
        return total / count if count else 0.0

    def _note(self, pairs: Pairs) -> None:
        beta, free = self.options.pref_beta, self.reference is None
        chosen = beta * (pairs.chosen_mean if free else pairs.chosen_ratio).detach()
        rejected = beta * (pairs.rejected_mean if free else pairs.rejected_ratio).detach()
        numbers = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
            "rewards/margins": chosen - rejected,
            "logps/chosen": pairs.chosen.detach(),
            "logps/rejected": pairs.rejected.detach(),
        }
        if self.options.pref_loss == "orpo":
            numbers |= {
                "sft_loss": -pairs.chosen_mean.detach(),
                "odds_ratio_loss": odds_ratio(pairs).detach(),
            }
        self.note_all(list(numbers), [number.sum() for number in numbers.values()], len(chosen))

    # -- checkpoints -------------------------------------------------------------------------------

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.options.pref_bco_weight and self.args.should_save:
            Path(output_dir, BASELINE).write_text(json.dumps(self.baseline), encoding="utf-8")

    def go_on(self, checkpoint: Path) -> None:
        """As every stage, with BCO's baseline."""
        super().go_on(checkpoint)
        if (path := checkpoint / BASELINE).is_file():
            self.baseline = json.loads(path.read_text(encoding="utf-8"))

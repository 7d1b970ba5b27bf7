"""Losses over pairs of a chosen and a rejected reply, each a function of `Pairs` and options to one loss a pair.

`r` is the log-ratio of policy and reference, `log pi(y|x) - log pi_ref(y|x)`; sums over the reply's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tkernel.references import is_reference, load_function
from tkernel_plugins.training.preference_options import LOSSES, PreferenceOptions


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the replies of `n` pairs, each of shape (n,).

    The reference's are zero for losses without one.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    """Tokens of the reply, each counted with its weight."""
    rejected_tokens: torch.Tensor

    @property
    def chosen_ratio(self) -> torch.Tensor:
        """`r` of the chosen replies."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> torch.Tensor:
        """`r` of the rejected replies."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> torch.Tensor:
        """The difference of the two."""
        return self.chosen_ratio - self.rejected_ratio

    @property
    def chosen_mean(self) -> torch.Tensor:
        """The mean log-probability of a token of the chosen replies."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> torch.Tensor:
        """The same for the rejected replies."""
        return self.rejected / self.rejected_tokens

    @property
    def mean_margin(self) -> torch.Tensor:
        """The difference of the two `r`, each divided by its tokens."""
        return self.chosen_ratio / self.chosen_tokens - self.rejected_ratio / self.rejected_tokens


Loss = Callable[[Pairs, PreferenceOptions], torch.Tensor]


def loss_of(name: str) -> Loss:
    """The loss called `name`: one of `LOSSES`, or a function by reference."""
    if is_reference(name):
        return load_function(name)
    found: Loss = {known: globals()[known] for known in LOSSES}[name]
    return found


def sigmoid(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290); with smoothing cDPO (Mitchell 2023)."""
    return _smoothed(options.pref_beta * pairs.margin, options.dpo_label_smoothing)


def hinge(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """SLiC's hinge loss as RSO uses it (Liu et al. 2023, arXiv:2309.06657)."""
    return torch.relu(1 - options.pref_beta * pairs.margin)


def ipo(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """IPO (Azar et al. 2023, arXiv:2310.12036) over mean log-ratios, as its authors confirmed to TRL."""
    return (pairs.mean_margin - 1 / (2 * options.pref_beta)) ** 2


def kto_pair(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """KTO for pairs (Ethayarajh et al. 2024, arXiv:2402.01306, first version): the KL term of one side is
    estimated from the other side of the micro-batch."""
    chosen_kl = pairs.chosen_ratio.mean().clamp(min=0).detach()
    rejected_kl = pairs.rejected_ratio.mean().clamp(min=0).detach()
    beta = options.pref_beta
    chosen = 1 - torch.sigmoid(beta * (pairs.chosen_ratio - rejected_kl))
    rejected = 1 - torch.sigmoid(beta * (chosen_kl - pairs.rejected_ratio))
    return (chosen + rejected) / 2


def orpo(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """ORPO (Hong et al. 2024, arXiv:2403.07691): next-token loss and `beta` times the odds-ratio loss."""
    return -pairs.chosen_mean + options.pref_beta * odds_ratio(pairs)


def odds_ratio(pairs: Pairs) -> torch.Tensor:
    """`-log sigmoid` of the log odds ratio of chosen and rejected, of mean log-probabilities."""
    log_odds = pairs.chosen_mean - pairs.rejected_mean
    log_odds = log_odds - (_log1mexp(pairs.chosen_mean) - _log1mexp(pairs.rejected_mean))
    return -F.logsigmoid(log_odds)


def simpo(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """SimPO (Meng et al. 2024, arXiv:2405.14734)."""
    return -F.logsigmoid(options.pref_beta * (pairs.chosen_mean - pairs.rejected_mean) - options.simpo_gamma)


def robust(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """Robust DPO (Chowdhury et al. 2024, arXiv:2403.00409), unbiased under swapped labels."""
    swapped, logits = options.dpo_label_smoothing, options.pref_beta * pairs.margin
    clean = -(1 - swapped) * F.logsigmoid(logits) + swapped * F.logsigmoid(-logits)
    return clean / (1 - 2 * swapped)


def exo_pair(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """EXO for pairs (Ji et al. 2024, arXiv:2402.00856, eq. 16)."""
    logits, swapped = options.pref_beta * pairs.margin, options.dpo_label_smoothing
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    first = log_p.exp() * (log_p - torch.log1p(logits.new_tensor(-swapped)))
    return first + log_q.exp() * (log_q - logits.new_tensor(swapped).log())


def nca_pair(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """NCA for pairs (Chen et al. 2024, arXiv:2402.05369)."""
    chosen, rejected = options.pref_beta * pairs.chosen_ratio, options.pref_beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def bco_pair(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """BCO for pairs (Jung et al. 2024, arXiv:2404.04656) without its moving baseline, as in TRL 1."""
    return binary_classifier(pairs, options.pref_beta, 0.0)


def binary_classifier(pairs: Pairs, beta: float, baseline: float) -> torch.Tensor:
    """BCO's loss with a baseline of the rewards; `pref_bco_weight` mixes it into another loss."""
    chosen, rejected = beta * pairs.chosen_ratio - baseline, beta * pairs.rejected_ratio - baseline
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def sppo_hard(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """SPPO with hard preferences (Wu et al. 2024, arXiv:2405.00675)."""
    half = 0.5 / options.pref_beta
    return (pairs.chosen_ratio - half) ** 2 + (pairs.rejected_ratio + half) ** 2


def aot(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """AOT (Melnyk et al. 2024, arXiv:2406.05882): sorted margins of policy and reference in the micro-batch."""
    policy = (pairs.chosen - pairs.rejected).sort(0).values
    reference = (pairs.ref_chosen - pairs.ref_rejected).sort(0).values
    return _smoothed(options.pref_beta * (policy - reference), options.dpo_label_smoothing)


def aot_unpaired(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """AOT over sorted log-ratios of each side, for chosen and rejected that need not belong together."""
    delta = pairs.chosen_ratio.sort(0).values - pairs.rejected_ratio.sort(0).values
    return _smoothed(options.pref_beta * delta, options.dpo_label_smoothing)


def apo_zero(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7): chosen up, rejected down."""
    beta = options.pref_beta
    return 1 - torch.sigmoid(beta * pairs.chosen_ratio) + torch.sigmoid(beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """APO-down (eq. 8): both down, rejected more."""
    beta = options.pref_beta
    return torch.sigmoid(beta * pairs.chosen_ratio) + 1 - torch.sigmoid(beta * pairs.margin)


def discopop(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """DiscoPOP (Lu et al. 2024, arXiv:2406.08414, eq. 5): logistic and exponential loss, blended."""
    logits = options.pref_beta * pairs.margin
    share = torch.sigmoid(logits / options.discopop_tau)
    return -F.logsigmoid(logits) * (1 - share) + torch.exp(-logits) * share


def sft(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """The next-token loss of the chosen reply, the mean over its tokens."""
    return -pairs.chosen_mean


def sigmoid_norm(pairs: Pairs, options: PreferenceOptions) -> torch.Tensor:
    """DPO over mean log-ratios (Lambert et al. 2024, arXiv:2411.15124)."""
    return -F.logsigmoid(options.pref_beta * pairs.mean_margin)


def _smoothed(logits: torch.Tensor, swapped: float) -> torch.Tensor:
    return -F.logsigmoid(logits) * (1 - swapped) - F.logsigmoid(-logits) * swapped


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """`log(1 - exp(x))` for x < 0."""
    return torch.log1p(-torch.exp(x))

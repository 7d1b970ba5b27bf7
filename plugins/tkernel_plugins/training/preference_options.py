"""Options of the losses over pairs and judged completions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReferenceOptions:
    """The model that a preference loss compares with."""

    pref_beta: float = field(default=0.1, metadata={"gt": 0})
    """How strongly the policy is kept near its reference; for `ipo` the regularisation tau."""
    pref_ftx: float = field(default=0.0, metadata={"ge": 0})
    """Add so much of the next-token loss on the chosen replies, each the mean over its tokens."""
    ref_model: str | None = None
    """The reference: a folder or hub id. Unset, the model without its adapter, or a frozen copy of it."""
    ref_model_adapters: tuple[str, ...] | None = None
    """Adapters on `ref_model`."""
    precompute_ref_log_probs: bool = False
    """Compute the reference's log-probabilities of all samples before step 1 and keep them in the cache."""
    join_pairs: bool = True
    """Compute a micro-batch as one row without padding, a shared prompt once, where the model gives the same
    log-probabilities so; that is tried before step 1."""


@dataclass(frozen=True)
class PreferenceOptions(ReferenceOptions):
    """What the losses over pairs read; a `pref_loss` of your own gets it as its second argument."""

    pref_loss: str = field(default="sigmoid", metadata={"function": True})
    """The loss: a name of `docs/stages/dpo.md`, or `pkg.mod:fn` or `./file.py:fn`."""
    pref_bco_weight: float = field(default=0.0, metadata={"ge": 0})
    """Mix in so much of the binary classifier's loss (BCO)."""
    dpo_label_smoothing: float = field(default=0.0, metadata={"ge": 0, "lt": 0.5})
    """How often the labels are assumed to be swapped: cDPO, `robust`, `exo_pair`, `aot`."""
    simpo_gamma: float = 0.5
    """The margin of `simpo` between the mean log-probabilities, before division by `pref_beta`."""
    discopop_tau: float = field(default=0.05, metadata={"gt": 0})
    """The temperature of `discopop`."""
    ld_alpha: float | None = field(default=None, metadata={"ge": 0, "le": 1})
    """Weight of a reply's tokens beyond the length of the shorter one (LD-DPO); unset, all count alike."""


@dataclass(frozen=True)
class FeedbackOptions(ReferenceOptions):
    """What the loss over judged completions reads."""

    kto_chosen_weight: float = field(default=1.0, metadata={"ge": 0})
    """Weight of the losses of liked completions."""
    kto_rejected_weight: float = field(default=1.0, metadata={"ge": 0})
    """Weight of the losses of the others."""


REFERENCE_FREE = ("orpo", "simpo", "sft")
"""Losses without a reference."""

SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
"""Losses that `dpo_label_smoothing` changes."""

LOSSES = (
    *("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"),
    *("robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""Names that `pref_loss` takes; each is a function in `preference_losses`."""

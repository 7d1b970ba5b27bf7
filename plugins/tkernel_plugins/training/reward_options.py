"""Options of reward models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class RewardOptions:
    """What a reward model is and learns."""

    reward_head: Literal["value", "classification"] = "value"
    """`value`: LLaMA-Factory's and TRL's head, saved as `value_head.safetensors` beside the model or adapter.
    `classification`: a model for sequence classification with one label, as `AutoModel...` loads it."""
    reward_margin: float = field(default=0.0, metadata={"ge": 0})
    """How much higher the chosen reply should score (Touvron et al. 2023, arXiv:2307.09288)."""
    center_rewards_coefficient: float = field(default=0.0, metadata={"ge": 0})
    """Add so much of the squared sum of both scores, which keeps their mean at 0 (Eisenstein et al. 2023)."""
    join_pairs: bool = True
    """Compute a micro-batch as one row without padding, a shared prompt once, where the model gives the same
    scores so; that is tried before step 1."""

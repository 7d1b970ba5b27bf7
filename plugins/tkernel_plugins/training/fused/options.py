"""The key of the calculations in this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FusedOptions:
    """How a training step is computed; the losses are the same."""

    fused: Literal["auto"] | bool = "auto"
    """`auto` leaves padding out of the calculation, computes the loss with the output layer and fuses norms,
    activations and LoRA layers, wherever a trial gives the model's own loss; `true` insists, `false` does not."""

"""What was written into the folder of an export."""

from __future__ import annotations

from dataclasses import dataclass

from tkernel_plugins.exporting.comparing import Divergence, ScoreGap


@dataclass(frozen=True)
class Made:
    """The weights of an export, and how near they are to what they were made of."""

    precision: str
    parameters: int
    found: Divergence | ScoreGap | None
    """From the model with its adapters unmerged in float32 to the exported one; None if it was not asked for."""
    bound: float
    """What the mean of `found` may be."""

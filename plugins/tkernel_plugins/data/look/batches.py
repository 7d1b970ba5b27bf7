"""What batches and steps of prepared data cost; `tkernel_plugins.training.epoch` finds it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batches:
    """What padding costs in the first epoch."""

    order: str
    """The sampling strategy: `random`, `sequential`, `group_by_length`, ...; or `stream`."""
    size: int
    """Rows of a micro-batch on one device."""
    count: int
    tokens: int
    """Tokens that are no padding."""
    padded: int
    """All tokens that the model computes."""

    @property
    def waste(self) -> float:
        """The share of tokens that are padding."""
        return 1 - self.tokens / self.padded if self.padded else 0.0


@dataclass(frozen=True)
class Steps:
    """How often the optimizer steps."""

    world_size: int
    accumulation: int
    per_epoch: int
    epochs: float
    total: int

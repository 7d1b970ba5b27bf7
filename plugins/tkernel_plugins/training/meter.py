"""What the trainer counts while it runs, for progress and logs."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic


@dataclass
class Meter:
    """Counts of this session: a resumed run starts again from zero."""

    tokens: int = 0
    """Tokens trained on, padding left out."""
    steps: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Time spent in steps; evaluation and saving are left out."""
    loss: float = 0.0
    """Loss of the last whole step."""
    _since: float = 0.0

    def start_step(self) -> None:
        """A step begins."""
        self._since = monotonic()

    def end_step(self, loss: float, tokens: int) -> None:
        """A step is done; `loss` is its whole loss, `tokens` those of all devices."""
        self.seconds += monotonic() - self._since
        self.steps += 1
        self.loss = loss
        self.tokens += tokens

    @property
    def tokens_per_second(self) -> float:
        """Tokens without padding per second of step time."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def remaining(self, steps: int) -> float:
        """Seconds that `steps` more steps will take at the rate so far."""
        return steps * self.seconds / self.steps if self.steps else 0.0

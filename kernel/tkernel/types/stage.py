"""What a training stage gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StageResult:
    """Metrics (floats under the Trainer's names), where the result was saved, the trained bundle."""

    bundle: Any = field(repr=False)
    """A `ModelBundle`; None for a run that had been finished before, of which nothing was loaded."""
    output_dir: Path | None = None
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

"""What a trainer has added up since its last log and since its first step, kept in each checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "sums.json"
Noted = dict[str, list[float]]
"""Name of a mean -> its total and its count."""


@dataclass
class Sums:
    """Of one process."""

    noted: Noted = field(default_factory=dict)
    """Since the last log."""
    loss: float = 0.0
    """The losses of all steps of the run."""
    whole: bool = True
    """False if the run began in another program, so that its first losses are not known."""
    evaluation_due: bool = False
    """The evaluation after the last step was stopped, and has to be made again."""

    def add(self, name: str, total: float, count: float) -> None:
        """Count towards the mean `name`."""
        sums = self.noted.setdefault(name, [0.0, 0.0])
        sums[0] += total
        sums[1] += count


def save_sums(folder: Path, sums: Sums, process: int) -> None:
    """Write the sums of a process into a checkpoint."""
    (folder / _name(process)).write_text(json.dumps(asdict(sums)) + "\n", encoding="utf-8")


def read_sums(folder: Path, process: int) -> Sums:
    """Those of a checkpoint; of one that has none, nothing is known before it."""
    file = folder / _name(process)
    return Sums(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else Sums(whole=False)


def _name(process: int) -> str:
    return FILE if process == 0 else f"sums_{process}.json"

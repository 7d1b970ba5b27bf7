"""`completions.jsonl`: what the model said while it was trained, and what it got for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "completions.jsonl"


class CompletionLog:
    """Appends one JSON object for each completion.

    A run that goes on from a checkpoint keeps the lines of the steps before, and a fresh one none.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / FILE
        self.is_begun = False

    def write(self, step: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the completions from which the steps after `step` learn."""
        if not self.is_begun:
            self._begin(step)
        with self.path.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps({"step": step, **line}, ensure_ascii=False, default=str) + "\n")

    def _begin(self, step: int) -> None:
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with suppress(json.JSONDecodeError):  # a run that was killed may leave half a line
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
        self.path.write_text("".join(kept), encoding="utf-8")
        self.is_begun = True

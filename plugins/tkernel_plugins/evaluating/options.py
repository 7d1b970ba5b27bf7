"""The keys of `tk eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated on. Names, types and defaults are LLaMA-Factory's except where a field says so."""

    task: str | None = None
    """`NAME_SPLIT` of a folder of multiple-choice questions (`mmlu_test`, `ceval_validation`), or names of
    lm-eval's tasks, separated by commas."""
    task_dir: str = "evaluation"
    """The folder of such folders; for lm-eval, one with task files of your own."""
    batch_size: int = field(default=4, metadata={"ge": 1})
    """Questions at a time."""
    lang: Literal["en", "zh"] = "en"
    """The language of the words around multiple-choice questions."""
    n_shot: int = field(default=5, metadata={"ge": 0})
    """Answered examples before each question."""
    save_dir: str | None = None
    """A folder for the answers and scores."""
    eval_limit: int | None = field(default=None, metadata={"ge": 1})
    """Ours: only so many questions of each subject or task, to try things out."""

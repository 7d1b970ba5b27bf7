"""What can go wrong while training."""

from __future__ import annotations

from collections.abc import Sequence

from tkernel.errors import Problem, TkError


class TrainingArgumentsError(TkError):
    """Training arguments that contradict each other or this machine; found before data is prepared."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"these training arguments cannot be run\n{lines}")


class CheckpointError(TkError):
    """`resume_from_checkpoint` names a folder that is not a whole checkpoint."""

    exit_code = 2


class NonFiniteLoss(TkError):
    """The loss became NaN or infinite; the message names the samples of the micro-batch."""


class CheckpointNotSaved(TkError):
    """The disk is full, or the folder cannot be written; what was saved before is whole."""

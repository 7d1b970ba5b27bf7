"""Stage `rloo`: REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.online.options import GroupOptions


@dataclass(frozen=True)
class Options(GroupOptions):
    """Options of `stage: rloo`; names and defaults are those of TRL's `RLOOConfig`."""

    beta: float = field(default=0.05, metadata={"ge": 0})
    """Weight of the KL divergence from the reference model, which is taken off the rewards; at 0 there is none."""
    normalize_advantages: bool = False
    """Give the advantages of a rollout mean 0 and standard deviation 1."""
    reward_clip_range: tuple[float, float] | None = None
    """Least and greatest reward, `-1, 1`; what is beyond is moved there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_clip_range is not None and self.reward_clip_range[0] >= self.reward_clip_range[1]:
            low, high = self.reward_clip_range
            raise ValueError(f"reward_clip_range wants a lower and a higher number, not {low}, {high}")


class LeaveOneOut:
    """The reward of a completion is compared with the mean of the others of its prompt."""

    name = "rloo"
    Options = Options
    rows = "prompt"
    training_arguments = "transformers.training_args:TrainingArguments"
    models: ClassVar[Mapping[str, str]] = {"reference": "ref_model", "reward": "reward_model"}
    contract: ClassVar[Mapping[str, Any]] = {
        "options": {"num_generations": 4, "max_completion_length": 6},
        "reuse": {"num_iterations": 3},
        "ignores": "shifted",
    }

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Rewards that cannot be, batches that hold no whole groups, and what training refuses."""
        from tkernel_plugins.training.online.checks import check_group

        return check_group(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Load the rewards, prepare the prompts, and train."""
        from tkernel_plugins.training.online.rloo import RlooTrainer
        from tkernel_plugins.training.online.run import run_group

        return run_group(RlooTrainer, request)


STAGE = LeaveOneOut()

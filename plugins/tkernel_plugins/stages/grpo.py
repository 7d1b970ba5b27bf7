"""Stage `grpo`: group-relative policy optimisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.online.options import GroupOptions


@dataclass(frozen=True)
class Options(GroupOptions):
    """Options of `stage: grpo`; names and defaults are those of TRL's `GRPOConfig`."""

    beta: float = field(default=0.0, metadata={"ge": 0})
    """Weight of the KL divergence from the reference model in the loss; at 0 there is none."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """What a token contributes and what the sum is divided by, see `docs/stages/grpo.md`."""
    scale_rewards: Literal["group", "batch", "none"] | bool = "group"
    """Whose standard deviation divides the advantages: the group's, that of all rewards, or nobody's; true and
    false are `group` and `none`."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Whether the ratio of probabilities is that of each token, or their geometric mean over the completion."""
    delta: float | None = field(default=None, metadata={"gt": 0})
    """A further upper bound of the ratio, also where the advantage is negative."""
    use_bias_correction_kl: bool = False
    """Multiply the KL divergence by the ratio."""
    sapo_temperature_pos: float = field(default=1.0, metadata={"gt": 0})
    """Temperature of `loss_type: sapo` where the advantage is positive."""
    sapo_temperature_neg: float = field(default=1.05, metadata={"gt": 0})
    """The same where it is not."""
    vespo_k_pos: float = field(default=2.0, metadata={"ge": 0})
    """Power of the ratio in `loss_type: vespo` where the advantage is not negative."""
    vespo_lambda_pos: float = field(default=3.0, metadata={"ge": 0})
    """Its rate of decay."""
    vespo_k_neg: float = field(default=3.0, metadata={"ge": 0})
    """Power of the ratio where the advantage is negative."""
    vespo_lambda_neg: float = field(default=2.0, metadata={"ge": 0})
    """Its rate of decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scale_rewards, bool):
            object.__setattr__(self, "scale_rewards", "group" if self.scale_rewards else "none")


class GroupRelative:
    """Completions of one prompt are compared with each other; the better ones become more probable."""

    name = "grpo"
    Options = Options
    rows = "prompt"
    training_arguments = "transformers.training_args:TrainingArguments"
    models: ClassVar[Mapping[str, str]] = {"reference": "ref_model", "reward": "reward_model"}
    contract: ClassVar[Mapping[str, Any]] = {
        "options": {"num_generations": 4, "max_completion_length": 6},
        "reuse": {"num_iterations": 3},
    }

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Rewards that cannot be, batches that hold no whole groups, and what training refuses."""
        from tkernel_plugins.training.online.checks import check_group

        return check_group(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Load the rewards, prepare the prompts, and train."""
        from tkernel_plugins.training.online.grpo import GrpoTrainer
        from tkernel_plugins.training.online.run import run_group

        return run_group(GrpoTrainer, request)


STAGE = GroupRelative()

"""Stage `ppo`: proximal policy optimisation with a reward model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.online.options import OnlineOptions


@dataclass(frozen=True)
class Options(OnlineOptions):
    """Options of `stage: ppo`; names and defaults of the first five are LLaMA-Factory's."""

    ppo_buffer_size: int = field(default=1, metadata={"ge": 1})
    """Optimizer steps' worth of completions that are generated at once."""
    ppo_epochs: int = field(default=4, metadata={"ge": 1})
    """How often a rollout is trained on."""
    ppo_score_norm: bool = False
    """Take the running mean off the scores and divide them by their running deviation."""
    ppo_target: float = field(default=6.0, metadata={"gt": 0})
    """The KL divergence of a completion, in nats, that the weight of the penalty aims at."""
    ppo_whiten_rewards: bool = False
    """Divide the rewards of a rollout's tokens by their deviation before advantages are made of them."""
    reward_model_type: Literal["lora", "full", "api"] = "lora"
    """What `reward_model` is: an adapter with a value head on the trained model, a whole model, or an URL."""
    ppo_kl_coef: float = field(default=0.2, metadata={"ge": 0})
    """Where the weight of the KL penalty starts."""
    ppo_adap_kl_ctrl: bool = True
    """Let the weight follow the divergence; false leaves it where it starts."""
    ppo_horizon: float = field(default=10000.0, metadata={"gt": 0})
    """In how many completions the weight follows."""
    ppo_gamma: float = field(default=1.0, metadata={"ge": 0, "le": 1})
    """Discount of later rewards."""
    ppo_lambda: float = field(default=0.95, metadata={"ge": 0, "le": 1})
    """Lambda of generalised advantage estimation."""
    ppo_cliprange: float = field(default=0.2, metadata={"gt": 0})
    """The ratio of probabilities counts between 1 less this and 1 plus this."""
    ppo_cliprange_value: float = field(default=0.2, metadata={"gt": 0})
    """So far a value may move from the one before the rollout's first step."""
    ppo_vf_coef: float = field(default=0.1, metadata={"ge": 0})
    """Weight of the values' loss."""


class ProximalPolicy:
    """The policy learns from a reward model, is held near the reference, and learns values beside."""

    name = "ppo"
    Options = Options
    rows = "prompt"
    training_arguments = "transformers.training_args:TrainingArguments"
    models: ClassVar[Mapping[str, str]] = {"reference": "ref_model", "reward": "reward_model"}
    contract: ClassVar[Mapping[str, Any]] = {
        "suite": "tkernel_plugins.training.contracts.judged:JudgedContract",
    }

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """A reward model that is missing or of another type, and what training refuses."""
        from tkernel_plugins.training.online.checks import check_ppo

        return check_ppo(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Load reward and reference model, prepare the prompts, and train."""
        from tkernel_plugins.training.online.run import run_ppo

        return run_ppo(request)


STAGE = ProximalPolicy()

"""The built-in stages that generate keep their contract."""

import pytest

from tkernel.testing import OnlineStageContract
from tkernel_plugins.training.contracts.judged import JudgedContract

SHORT = {"num_generations": 4, "max_completion_length": 6}


class TestGrpo(OnlineStageContract):
    plugin = "grpo"


@pytest.mark.slow
class TestGrpoOnTheSecondIteration(OnlineStageContract):
    plugin = "grpo"
    options = {**SHORT, "num_iterations": 2, "beta": 0.1, "loss_type": "grpo"}
    reuse = {"num_iterations": 3, "beta": 0.2}
    ignores = ""


class TestRloo(OnlineStageContract):
    plugin = "rloo"


class TestPpo(JudgedContract):
    plugin = "ppo"

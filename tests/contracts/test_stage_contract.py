"""The built-in stages keep the contract."""

from tkernel.testing import (
    FeedbackStageContract,
    PreferenceStageContract,
    StageContract,
    TextStageContract,
)
from tkernel_plugins.training.contracts.rewards import RewardContract


class TestSft(StageContract):
    plugin = "sft"


class TestDpo(PreferenceStageContract):
    plugin = "dpo"


class TestKto(FeedbackStageContract):
    plugin = "kto"


class TestRm(RewardContract):
    plugin = "rm"


class TestPt(TextStageContract):
    """Documents, one a row; blocks without a gap have tests of their own."""

    plugin = "pt"

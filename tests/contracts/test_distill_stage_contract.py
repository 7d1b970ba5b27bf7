"""Stage `distill` keeps the contract, with the teacher's distributions in place of labels."""

import pytest

from tkernel_plugins.training.contracts.distillation import DistillationContract


class TestReverse(DistillationContract):
    plugin = "distill"


@pytest.mark.slow
class TestMixture(DistillationContract):
    plugin = "distill"
    options = {"beta": 0.3, "ce_weight": 0.25}

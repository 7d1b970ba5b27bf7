"""The built-in stages keep the contract."""

from tkernel.testing import PreferenceStageContract, StageContract


class TestSft(StageContract):
    plugin = "sft"
    log_file = "trainer_log.jsonl"


class TestDpo(PreferenceStageContract):
    plugin = "dpo"
    log_file = "trainer_log.jsonl"
    options = {"ref_model": "another"}

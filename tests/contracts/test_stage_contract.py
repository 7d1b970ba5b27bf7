"""The built-in stage keeps the contract."""

from tkernel.testing import StageContract


class TestSft(StageContract):
    plugin = "sft"
    log_file = "trainer_log.jsonl"

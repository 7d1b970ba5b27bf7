"""The contract of adapters on `lora.unsloth`; test_unsloth_run.py runs it where unsloth is installed."""

import unsloth  # noqa: F401  (first, as the kernel has it)

from tkernel.testing import AdapterContract
from tkernel_plugins.adapters.lora import LoraOptions


class TestLoraOfUnsloth(AdapterContract):
    plugin = "lora.unsloth"
    trained = r"lora_[AB]"
    unknown_target = {"lora_target": "no_such_layer"}

    def bound_options(self, **values):
        """Those of `lora`, which a variant takes."""
        return LoraOptions(**values)

"""The built-in adapters keep the contract."""

from tkernel.testing import AdapterContract


class TestFull(AdapterContract):
    plugin = "full"
    trained = ""


class TestFreeze(AdapterContract):
    plugin = "freeze"
    options = {"freeze_trainable_layers": 1}
    trained = r"layers\.1\."
    unknown_target = {"freeze_trainable_modules": "no_such_layer"}


class TestLora(AdapterContract):
    plugin = "lora"
    trained = r"\.lora_[AB]\."


class TestDora(AdapterContract):
    plugin = "lora"
    options = {"use_dora": True}
    trained = r"\.lora_(A|B|magnitude_vector)\."


class TestRsloraOnNamedLayers(AdapterContract):
    plugin = "lora"
    options = {"use_rslora": True, "lora_target": "q_proj,v_proj", "lora_rank": 4}
    trained = r"\.(q_proj|v_proj)\.lora_[AB]\."

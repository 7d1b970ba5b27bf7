"""The built-in adapters keep the contract."""

import pytest

from tkernel.testing import AdapterContract
from tkernel.testing.tiny import TINY_CONFIGS


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


@pytest.mark.parametrize("family", TINY_CONFIGS)
@pytest.mark.parametrize("plugin", ["lora", "freeze"])
def test_every_family_starts_as_it_was_and_saves_what_it_learned(plugin, family, tmp_path):
    suite = type("Family", (AdapterContract,), {"plugin": plugin, "model_type": family})()
    suite.test_it_is_the_identity_at_start()
    suite.test_every_trainable_parameter_is_used()
    suite.test_frozen_parameters_do_not_move()
    suite.test_a_saved_result_loads_with_the_same_logits(tmp_path)

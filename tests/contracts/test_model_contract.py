"""The built-in model plugins keep the contract."""

import pytest

from tkernel.testing import ModelContract
from tkernel.testing.tiny import TINY_CONFIGS


class TestHuggingFace(ModelContract):
    plugin = "huggingface"


class TestLlama(ModelContract):
    plugin = "llama"


class TestMistral(ModelContract):
    plugin = "mistral"


class TestMixtral(ModelContract):
    plugin = "mixtral"


class TestQwen2(ModelContract):
    plugin = "qwen2"


class TestQwen3(ModelContract):
    plugin = "qwen3"


class TestGemma(ModelContract):
    plugin = "gemma"


class TestGemma2(ModelContract):
    plugin = "gemma2"


class TestPhi3(ModelContract):
    plugin = "phi3"


class TestGlm(ModelContract):
    plugin = "glm"


class TestLlava(ModelContract):
    plugin = "llava"


@pytest.mark.parametrize("model_type", TINY_CONFIGS)
def test_the_default_plugin_loads_every_family(model_type, tmp_path):
    suite = type("Suite", (ModelContract,), {"plugin": "huggingface", "model_type": model_type})
    suite().test_the_weights_are_those_of_the_files(tmp_path)

"""The built-in templates keep the contract."""

from tkernel.testing import TemplateContract


class TestAuto(TemplateContract):
    plugin = "auto"


class TestChatml(TemplateContract):
    plugin = "chatml"


class TestSmollm2(TemplateContract):
    plugin = "smollm2"


class TestLlama3(TemplateContract):
    plugin = "llama3"


class TestQwen3(TemplateContract):
    plugin = "qwen3"


class TestQwen3NoThink(TemplateContract):
    plugin = "qwen3_nothink"


class TestGemma(TemplateContract):
    plugin = "gemma"


class TestMistral(TemplateContract):
    plugin = "mistral"


class TestDefault(TemplateContract):
    plugin = "default"


class TestAlpaca(TemplateContract):
    plugin = "alpaca"

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


class TestDeepseek3(TemplateContract):
    plugin = "deepseek3"


class TestGlm4(TemplateContract):
    plugin = "glm4"
    efficient_eos = True


class TestLlama2(TemplateContract):
    plugin = "llama2"


class TestQwen(TemplateContract):
    plugin = "qwen"

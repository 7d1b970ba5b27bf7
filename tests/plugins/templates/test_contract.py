"""Every built-in template keeps the contract of templates."""

from tkernel.testing import TemplateContract, tiny


class TestAlpaca(TemplateContract):
    plugin = "alpaca"


class TestChatML(TemplateContract):
    plugin = "chatml"


class TestDefault(TemplateContract):
    plugin = "default"


class TestDeepSeek3(TemplateContract):
    plugin = "deepseek3"


class TestGemma(TemplateContract):
    plugin = "gemma"


class TestGLM4(TemplateContract):
    plugin = "glm4"
    efficient_eos = True


class TestLlama2(TemplateContract):
    plugin = "llama2"


class TestLlama3(TemplateContract):
    plugin = "llama3"


class TestMistral(TemplateContract):
    plugin = "mistral"


class TestQwen(TemplateContract):
    plugin = "qwen"


class TestQwen3(TemplateContract):
    plugin = "qwen3"
    # A reply that holds a thought's words gets no empty thought, so they are not among what is typed here.
    special_tokens = tuple(token for token in tiny.SPECIAL_TOKENS if "think>" not in token)


class TestQwen3NoThink(TemplateContract):
    plugin = "qwen3_nothink"


class TestSmolLM2(TemplateContract):
    plugin = "smollm2"


class TestAuto(TemplateContract):
    plugin = "auto"

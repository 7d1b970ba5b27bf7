"""Templates of Zhipu's GLM models, and of Aeva, which is made from GLM-4.7."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.slots import CONTENT, Token
from tkernel_plugins.templates.template import Template

CHATGLM3 = Template(
    name="chatglm3",
    prefix=(Token("[gMASK]"), Token("sop")),
    user=(Token("<|user|>"), "\n", CONTENT, Token("<|assistant|>")),
    assistant=("\n", CONTENT),
    system=(Token("<|system|>"), "\n", CONTENT),
    function=(CONTENT,),
    observation=(Token("<|observation|>"), "\n", CONTENT, Token("<|assistant|>")),
    tool_format="glm4",
    stop_words=("<|user|>", "<|observation|>"),
    efficient_eos=True,
)

GLM4 = Template(
    name="glm4",
    prefix=("[gMASK]<sop>",),
    user=("<|user|>\n{{content}}<|assistant|>",),
    assistant=("\n{{content}}",),
    system=("<|system|>\n{{content}}",),
    function=(CONTENT,),
    observation=("<|observation|>\n{{content}}<|assistant|>",),
    tool_format="glm4",
    stop_words=("<|user|>", "<|observation|>"),
    efficient_eos=True,
)

GLM_OCR = replace(GLM4, name="glm_ocr", media="glm4v")

GLMZ1 = replace(GLM4, name="glmz1", reasoning=True)

GLM4V = replace(GLMZ1, name="glm4v", stop_words=("<|user|>", "<|observation|>", "</answer>"), media="glm4v")

GLM4_MOE = replace(GLMZ1, name="glm4_moe", tool_format="glm4_moe")

GLM4_5V = replace(GLM4V, name="glm4_5v", tool_format="glm4_moe")

GLM4_7 = replace(GLM4_MOE, name="glm4_7", thought_words=("<think>", "</think>"), empty_thought="</think>")

AEVA = replace(
    GLM4_7,
    name="aeva",
    default_system=(
        "You are an AI assistant named Aeva created by Zongzhi Lou. "
        "Your answer should be friendly, unbiased, faithful, informative and detailed."
    ),
)

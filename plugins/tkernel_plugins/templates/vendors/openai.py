"""The template of OpenAI's gpt-oss."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT
from tkernel_plugins.templates.template import Template

GPT_OSS = Template(
    name="gpt_oss",
    user=("<|start|>user<|message|>{{content}}<|end|><|start|>assistant",),
    assistant=(CONTENT,),
    system=("<|start|>system<|message|>{{content}}<|end|>",),
    default_system="You are ChatGPT, a large language model trained by OpenAI.",
    efficient_eos=True,
    reasoning=True,
    thought_words=(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)

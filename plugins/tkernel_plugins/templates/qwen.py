"""Templates of Alibaba's Qwen models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.template import Template

_RESULT = (
    "<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
)

QWEN3_NOTHINK = Template(
    name="qwen3_nothink",
    user=("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
    assistant=("{{content}}<|im_end|>\n",),
    system=("<|im_start|>system\n{{content}}<|im_end|>\n",),
    observation=(_RESULT,),
    tool_format="qwen",
    stop_words=("<|im_end|>",),
    replace_eos=True,
)

QWEN3 = replace(QWEN3_NOTHINK, name="qwen3", reasoning=True)

QWEN = replace(
    QWEN3_NOTHINK,
    name="qwen",
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)

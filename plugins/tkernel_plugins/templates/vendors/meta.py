"""Templates of Meta's Llama models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import LLAMA3_TURNS
from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

LLAMA2 = Template(
    name="llama2",
    user=(BOS, "[INST] {{content}} [/INST]"),
    system=("<<SYS>>\n{{content}}\n<</SYS>>\n\n",),
    system_in_user=True,
    text_before_calls=False,
)

LLAMA2_ZH = replace(
    LLAMA2,
    name="llama2_zh",
    default_system="You are a helpful assistant. 你是一个乐于助人的助手。",
)

LLAMA3 = replace(LLAMA3_TURNS, name="llama3", end_of_text="<|end_of_text|>")

MLLAMA = replace(LLAMA3_TURNS, name="mllama", media="mllama")

_LLAMA4_REPLY = "<|eot|><|header_start|>assistant<|header_end|>\n\n"
LLAMA4 = Template(
    name="llama4",
    prefix=(BOS,),
    user=("<|header_start|>user<|header_end|>\n\n{{content}}" + _LLAMA4_REPLY,),
    assistant=("{{content}}<|eot|>",),
    system=("<|header_start|>system<|header_end|>\n\n{{content}}<|eot|>",),
    observation=("<|header_start|>ipython<|header_end|>\n\n{{content}}" + _LLAMA4_REPLY,),
    tool_format="llama3",
    stop_words=("<|eot|>", "<|eom|>"),
    replace_eos=True,
    media="llama4",
)

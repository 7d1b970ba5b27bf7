"""Templates of Meta's Llama models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS, CONTENT, EOS
from tkernel_plugins.templates.template import Template

_REPLY = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"

LLAMA2 = Template(
    name="llama2",
    prefix=(),
    user=(BOS, "[INST] {{content}} [/INST]"),
    assistant=(CONTENT, EOS),
    system=("<<SYS>>\n{{content}}\n<</SYS>>\n\n",),
    system_in_user=True,
)

LLAMA3 = Template(
    name="llama3",
    prefix=(BOS,),
    user=("<|start_header_id|>user<|end_header_id|>\n\n{{content}}" + _REPLY,),
    assistant=("{{content}}<|eot_id|>",),
    system=("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",),
    observation=("<|start_header_id|>ipython<|end_header_id|>\n\n{{content}}" + _REPLY,),
    tool_format="llama3",
    stop_words=("<|eot_id|>", "<|eom_id|>"),
    replace_eos=True,
)

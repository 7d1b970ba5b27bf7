"""Forms that templates of several vendors share: values, of which each template replaces some fields.

A form is no template: its name is empty.
"""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.slots import BOS, CONTENT, EOS
from tkernel_plugins.templates.template import Template

IM_TURNS = Template(
    name="",
    user=("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
    assistant=("{{content}}<|im_end|>\n",),
    system=("<|im_start|>system\n{{content}}<|im_end|>\n",),
    stop_words=("<|im_end|>",),
)
"""ChatML, the results of tools in turns of the user's."""

IM_TOOL_TURNS = replace(
    IM_TURNS, observation=("<|im_start|>tool\n{{content}}<|im_end|>\n<|im_start|>assistant\n",)
)
"""ChatML, the results of tools in turns of their own."""

QWEN_TURNS = replace(
    IM_TURNS,
    observation=(
        "<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ),
    tool_format="qwen",
    replace_eos=True,
)
"""ChatML as Qwen writes it since 2.5."""


_LLAMA3_REPLY = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA3_TURNS = Template(
    name="",
    prefix=(BOS,),
    user=("<|start_header_id|>user<|end_header_id|>\n\n{{content}}" + _LLAMA3_REPLY,),
    assistant=("{{content}}<|eot_id|>",),
    system=("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",),
    observation=("<|start_header_id|>ipython<|end_header_id|>\n\n{{content}}" + _LLAMA3_REPLY,),
    tool_format="llama3",
    stop_words=("<|eot_id|>", "<|eom_id|>"),
    replace_eos=True,
)

MISTRAL_TURNS = Template(
    name="",
    prefix=(BOS,),
    user=("[INST] {{content}}[/INST]",),
    assistant=(" {{content}}", EOS),
    system=("{{content}}\n\n",),
    function=("[TOOL_CALLS] {{content}}", EOS),
    observation=('[TOOL_RESULTS] {"content": {{content}}}[/TOOL_RESULTS]',),
    tool_format="mistral",
    system_in_user=True,
    text_before_calls=False,
)
"""Mistral with the version 3 tokenizer."""

MINISTRAL_TURNS = replace(
    MISTRAL_TURNS,
    user=("[INST]{{content}}[/INST]",),
    assistant=(CONTENT, EOS),
    function=("[TOOL_CALLS]{{content}}", EOS),
    observation=('[TOOL_RESULTS]{"content": {{content}}}[/TOOL_RESULTS]',),
)
"""Mistral with the Tekken tokenizers, which want no blanks."""

VICUNA_TURNS = Template(
    name="",
    user=("USER: {{content}} ASSISTANT:",),
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
)

"""Templates of Google's models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

GEMMA = Template(
    name="gemma",
    prefix=(BOS,),
    user=("<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
    assistant=("{{content}}<end_of_turn>\n",),
    system=("{{content}}\n\n",),
    observation=("<start_of_turn>tool\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
    system_in_user=True,
    text_before_calls=False,
    stop_words=("<end_of_turn>",),
    replace_eos=True,
)

GEMMA2 = replace(
    GEMMA, name="gemma2", stop_words=("<eos>", "<end_of_turn>"), replace_eos=False, efficient_eos=True
)

GEMMA3 = replace(GEMMA, name="gemma3", media="gemma3")

GEMMA3N = replace(GEMMA, name="gemma3n", media="gemma3n")

# The system turn asks for thinking whatever `enable_thinking` says, and calls have no terminator: LLaMA-Factory's.
GEMMA4 = Template(
    name="gemma4",
    prefix=(BOS,),
    user=("<|turn>user\n{{content}}<turn|>\n<|turn>model\n",),
    assistant=("{{content}}<turn|>\n",),
    system=("<|turn>system\n<|think|>{{content}}<turn|>\n",),
    function=("<|tool>{{content}}<tool|>",),
    observation=("<|turn>tool\n{{content}}<turn|>\n<|turn>model\n",),
    tool_format="gemma4",
    default_system="You are a helpful assistant.",
    stop_words=("<turn|>",),
    replace_eos=True,
    reasoning=True,
    thought_words=("<|channel>thought\n", "<channel|>"),
    media="gemma4",
)

GEMMA4N = replace(GEMMA4, name="gemma4n")

PALIGEMMA = Template(
    name="paligemma",
    prefix=(BOS,),
    user=("{{content}}\n",),
    system_in_user=True,
    text_before_calls=False,
    media="paligemma",
)

PALIGEMMA_CHAT = replace(GEMMA, name="paligemma_chat", system=("{{content}}",), media="paligemma")

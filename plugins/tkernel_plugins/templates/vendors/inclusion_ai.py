"""Templates of inclusionAI's Ling (Bailing) models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT
from tkernel_plugins.templates.template import Template

BAILING = Template(
    name="bailing",
    user=("<role>HUMAN</role>{{content}}<role>ASSISTANT</role>",),
    assistant=(CONTENT,),
    system=("<role>SYSTEM</role>{{content}}",),
    observation=("<role>OBSERVATION</role>{{content}}<role>ASSISTANT</role>",),
    stop_words=("<|endoftext|>",),
    efficient_eos=True,
)

BAILING_V2 = Template(
    name="bailing_v2",
    user=("<role>HUMAN</role>{{content}}<|role_end|><role>ASSISTANT</role>",),
    assistant=("{{content}}<|role_end|>",),
    system=("<role>SYSTEM</role>{{content}}<|role_end|>",),
    observation=(
        "<role>OBSERVATION</role>\n<tool_response>\n{{content}}\n</tool_response>"
        "<|role_end|><role>ASSISTANT</role>",
    ),
    tool_format="ling",
    stop_words=("<|endoftext|>",),
    efficient_eos=True,
)

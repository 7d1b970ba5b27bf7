"""Templates of Microsoft's Phi models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tkernel_plugins.templates.template import Template
from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.default import DEFAULT
from tkernel_plugins.templates.tool_formats.format import Tool, dump

PHI = Template(
    name="phi",
    user=("<|user|>\n{{content}}<|end|>\n<|assistant|>\n",),
    assistant=("{{content}}<|end|>\n",),
    system=("<|system|>\n{{content}}<|end|>\n",),
    stop_words=("<|end|>",),
    replace_eos=True,
)

PHI_SMALL = replace(PHI, name="phi_small")

PHI4 = Template(
    name="phi4",
    user=("<|im_start|>user<|im_sep|>{{content}}<|im_end|><|im_start|>assistant<|im_sep|>",),
    assistant=("{{content}}<|im_end|>",),
    system=("<|im_start|>system<|im_sep|>{{content}}<|im_end|>",),
    stop_words=("<|im_end|>",),
    replace_eos=True,
)


def _describe(tools: Sequence[Tool]) -> Text:
    return "<|tool|>" + Text.of_data(dump(list(tools))) + "<|/tool|>"


PHI4_MINI = Template(
    name="phi4_mini",
    user=("<|user|>{{content}}<|end|><|assistant|>",),
    assistant=("{{content}}<|end|>",),
    system=("<|system|>{{content}}<|end|>",),
    tool_format=replace(
        DEFAULT,
        name="phi4_mini",
        describe=_describe,
        jinja_tools="{{- '<|tool|>' + tools | tojson + '<|/tool|>' }}",
        without_tools="<|tool|>[]<|/tool|>",
    ),
    stop_words=("<|end|>",),
    replace_eos=True,
)

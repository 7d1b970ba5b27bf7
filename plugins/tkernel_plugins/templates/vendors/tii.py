"""Templates of the Technology Innovation Institute's Falcon models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TOOL_TURNS
from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

FALCON = Template(
    name="falcon",
    user=("User: {{content}}\nFalcon:",),
    assistant=("{{content}}\n",),
    efficient_eos=True,
)

FALCON_H1 = replace(
    IM_TOOL_TURNS, name="falcon_h1", prefix=(BOS,), stop_words=("<|im_end|>", "<|end_of_text|>")
)

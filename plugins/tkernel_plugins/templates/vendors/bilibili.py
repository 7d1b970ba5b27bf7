"""The template of Bilibili's Index models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT
from tkernel_plugins.templates.template import Template

INDEX = Template(
    name="index",
    user=("reserved_0{{content}}reserved_1",),
    assistant=(CONTENT,),
    system=("<unk>{{content}}",),
    efficient_eos=True,
)

"""The template of MediaTek's Breeze models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS, CONTENT
from tkernel_plugins.templates.template import Template

BREEZE = Template(
    name="breeze",
    prefix=(BOS,),
    user=("[INST] {{content}} [/INST] ",),
    assistant=(CONTENT,),
    efficient_eos=True,
)

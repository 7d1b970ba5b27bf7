"""Templates of DeepSeek's models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

DEEPSEEK3 = Template(
    name="deepseek3",
    prefix=(BOS,),
    user=("<｜User｜>{{content}}<｜Assistant｜>",),
)

"""The template of LG's EXAONE models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT, EOS
from tkernel_plugins.templates.template import Template

EXAONE = Template(
    name="exaone",
    user=("[|user|]{{content}}\n[|assistant|]",),
    assistant=(CONTENT, EOS, "\n"),
    system=("[|system|]{{content}}[|endofturn|]\n",),
)

"""The template of IEIT's Yuan 2."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT, Token
from tkernel_plugins.templates.template import Template

YUAN = Template(
    name="yuan",
    user=(CONTENT, Token("<sep>")),
    assistant=("{{content}}<eod>\n",),
    stop_words=("<eod>",),
)

"""The template of Upstage's SOLAR."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT
from tkernel_plugins.templates.template import Template

SOLAR = Template(
    name="solar",
    user=("### User:\n{{content}}\n\n### Assistant:\n",),
    assistant=(CONTENT,),
    system=("### System:\n{{content}}\n\n",),
    efficient_eos=True,
)

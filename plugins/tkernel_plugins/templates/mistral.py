"""Templates of Mistral AI's models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS, EOS
from tkernel_plugins.templates.template import Template

MISTRAL = Template(
    name="mistral",
    prefix=(BOS,),
    user=("[INST] {{content}}[/INST]",),
    assistant=(" {{content}}", EOS),
    system=("{{content}}\n\n",),
    function=("[TOOL_CALLS] {{content}}", EOS),
    observation=('[TOOL_RESULTS] {"content": {{content}}}[/TOOL_RESULTS]',),
    tool_format="mistral",
    system_in_user=True,
)

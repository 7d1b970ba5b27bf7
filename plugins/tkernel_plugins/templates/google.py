"""Templates of Google's models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

GEMMA = Template(
    name="gemma",
    prefix=(BOS,),
    user=("<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
    assistant=("{{content}}<end_of_turn>\n",),
    system=("{{content}}\n\n",),
    observation=("<start_of_turn>tool\n{{content}}<end_of_turn>\n<start_of_turn>model\n",),
    system_in_user=True,
    stop_words=("<end_of_turn>",),
    replace_eos=True,
)

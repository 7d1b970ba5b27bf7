"""The template of Cohere's Command R and Aya 23."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

COHERE = Template(
    name="cohere",
    prefix=(BOS,),
    user=(
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    system=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",),
)

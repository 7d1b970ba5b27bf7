"""Templates of DeepSeek's models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.slots import BOS
from tkernel_plugins.templates.template import Template

DEEPSEEK = Template(
    name="deepseek",
    prefix=(BOS,),
    user=("User: {{content}}\n\nAssistant:",),
    system=("{{content}}\n\n",),
)

DEEPSEEKCODER = Template(
    name="deepseekcoder",
    prefix=(BOS,),
    user=("### Instruction:\n{{content}}\n### Response:",),
    assistant=("\n{{content}}\n<|EOT|>\n",),
    default_system=(
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek Company, "
        "and you only answer questions related to computer science. For politically sensitive questions, "
        "security and privacy issues, and other non-computer science questions, you will refuse to answer.\n"
    ),
)

DEEPSEEK3 = Template(
    name="deepseek3",
    prefix=(BOS,),
    user=("<｜User｜>{{content}}<｜Assistant｜>",),
)

DEEPSEEKR1 = replace(DEEPSEEK3, name="deepseekr1", reasoning=True)

"""Templates of the OpenChat models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS, EOS
from tkernel_plugins.templates.template import Template

OPENCHAT = Template(
    name="openchat",
    prefix=(BOS,),
    user=("GPT4 Correct User: {{content}}", EOS, "GPT4 Correct Assistant:"),
)

OPENCHAT_3_6 = Template(
    name="openchat-3.6",
    prefix=(BOS,),
    user=(
        "<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n{{content}}<|eot_id|>"
        "<|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n",
    ),
    stop_words=("<|eot_id|>",),
)

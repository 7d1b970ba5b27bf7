"""Templates of Zhipu's GLM models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT
from tkernel_plugins.templates.template import Template

GLM4 = Template(
    name="glm4",
    prefix=("[gMASK]<sop>",),
    user=("<|user|>\n{{content}}<|assistant|>",),
    assistant=("\n{{content}}",),
    system=("<|system|>\n{{content}}",),
    function=(CONTENT,),
    observation=("<|observation|>\n{{content}}<|assistant|>",),
    tool_format="glm4",
    stop_words=("<|user|>", "<|observation|>"),
    efficient_eos=True,
)

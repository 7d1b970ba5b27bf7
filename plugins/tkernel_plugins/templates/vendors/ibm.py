"""Templates of IBM's Granite models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.template import Template

_REPLY = "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
GRANITE3 = Template(
    name="granite3",
    user=("<|start_of_role|>user<|end_of_role|>{{content}}" + _REPLY,),
    assistant=("{{content}}<|end_of_text|>\n",),
    system=("<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n",),
)

GRANITE4 = replace(
    GRANITE3,
    name="granite4",
    # After results the opening of a reply ends differently: LLaMA-Factory's.
    observation=(
        "<|start_of_role|>tool<|end_of_role|>{{content}}<|end_of_text|>\n<|start_of_role|>assistant\n",
    ),
    default_system="You are Granite, developed by IBM. You are a helpful AI assistant.",
    stop_words=("<|end_of_text|>",),
)

GRANITE3_VISION = Template(
    name="granite3_vision",
    user=("<|user|>\n{{content}}\n<|assistant|>\n",),
    system=("<|system|>\n{{content}}\n",),
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    media="llava_next",
)

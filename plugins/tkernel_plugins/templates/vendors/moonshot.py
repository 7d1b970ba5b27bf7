"""Templates of Moonshot AI's models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.template import Template

MOONLIGHT = Template(
    name="moonlight",
    user=("<|im_user|>user<|im_middle|>{{content}}<|im_end|><|im_assistant|>assistant<|im_middle|>",),
    assistant=("{{content}}<|im_end|>",),
    system=("<|im_system|>system<|im_middle|>{{content}}<|im_end|>",),
    default_system="You are a helpful assistant provided by Moonshot-AI.",
    stop_words=("<|im_end|>",),
    replace_eos=True,
)

KIMI_VL = replace(
    MOONLIGHT,
    name="kimi_vl",
    default_system="You are a helpful assistant",
    replace_eos=False,
    reasoning=True,
    thought_words=("◁think▷", "◁/think▷"),
    media="kimi_vl",
)

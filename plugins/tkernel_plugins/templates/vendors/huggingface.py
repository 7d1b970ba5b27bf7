"""Templates of Hugging Face's models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS
from tkernel_plugins.templates.slots import EOS
from tkernel_plugins.templates.template import Template

SMOLLM = replace(IM_TURNS, name="smollm")

SMOLLM2 = replace(
    SMOLLM,
    name="smollm2",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
)

STARCHAT = Template(
    name="starchat",
    user=("<|user|>\n{{content}}<|end|>\n<|assistant|>",),
    assistant=("{{content}}<|end|>\n",),
    system=("<|system|>\n{{content}}<|end|>\n",),
    stop_words=("<|end|>",),
)

ZEPHYR = Template(
    name="zephyr",
    user=("<|user|>\n{{content}}", EOS, "<|assistant|>\n"),
    system=("<|system|>\n{{content}}", EOS),
    default_system="You are Zephyr, a helpful assistant.",
)

"""Templates of Hugging Face's models."""

from __future__ import annotations

from tkernel_plugins.templates.template import Template

SMOLLM2 = Template(
    name="smollm2",
    user=("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
    assistant=("{{content}}<|im_end|>\n",),
    system=("<|im_start|>system\n{{content}}<|im_end|>\n",),
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
    stop_words=("<|im_end|>",),
)

"""The template of Rednote's dots.ocr."""

from __future__ import annotations

from tkernel_plugins.templates.template import Template

DOTS_OCR = Template(
    name="dots_ocr",
    user=("<|user|>{{content}}<|endofuser|><|assistant|>",),
    assistant=("{{content}}<|endofassistant|>",),
    system=("<|system|>{{content}}<|endofsystem|>\n",),
    stop_words=("<|endofassistant|>",),
    efficient_eos=True,
    media="qwen2_vl",
)

"""The template of Sea AI Lab's Sailor."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS

SAILOR = replace(
    IM_TURNS,
    name="sailor",
    user=("<|im_start|>question\n{{content}}<|im_end|>\n<|im_start|>answer\n",),
    default_system=(
        "You are an AI assistant named Sailor created by Sea AI Lab. "
        "Your answer should be friendly, unbiased, faithful, informative and detailed."
    ),
)

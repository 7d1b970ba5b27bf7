"""Templates of Liquid AI's LFM2 models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS

LFM2 = replace(
    IM_TURNS,
    name="lfm2",
    observation=(
        "<|im_start|>tool\n<|tool_response_start|>{{content}}<|tool_response_end|><|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    tool_format="lfm2",
    default_system="You are a helpful AI assistant.",
    replace_eos=True,
)

LFM2_VL = replace(
    LFM2,
    name="lfm2_vl",
    default_system="You are a helpful multimodal assistant by Liquid AI.",
    media="lfm2_vl",
)

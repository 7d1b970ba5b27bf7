"""Templates of Alibaba's Qwen models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS, QWEN_TURNS

QWEN = replace(
    QWEN_TURNS,
    name="qwen",
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)

QWEN2_AUDIO = replace(
    IM_TURNS,
    name="qwen2_audio",
    default_system="You are a helpful assistant.",
    replace_eos=True,
    media="qwen2_audio",
)

QWEN2_VL = replace(
    QWEN_TURNS, name="qwen2_vl", default_system="You are a helpful assistant.", media="qwen2_vl"
)

QWEN2_OMNI = replace(QWEN2_VL, name="qwen2_omni", media="qwen2_omni")

QWEN3_NOTHINK = replace(QWEN_TURNS, name="qwen3_nothink")

QWEN3 = replace(QWEN3_NOTHINK, name="qwen3", reasoning=True)

QWEN3_OMNI = replace(QWEN3, name="qwen3_omni", media="qwen2_omni")

QWEN3_OMNI_NOTHINK = replace(QWEN3_NOTHINK, name="qwen3_omni_nothink", media="qwen2_omni")

QWEN3_VL = replace(QWEN3, name="qwen3_vl", media="qwen3_vl")

QWEN3_VL_NOTHINK = replace(QWEN3_NOTHINK, name="qwen3_vl_nothink", media="qwen3_vl")

QWEN3_5 = replace(QWEN3_VL, name="qwen3_5", tool_format="qwen3_5")

QWEN3_5_NOTHINK = replace(QWEN3_VL_NOTHINK, name="qwen3_5_nothink", tool_format="qwen3_5")

QWEN3_6 = replace(QWEN3_5, name="qwen3_6")

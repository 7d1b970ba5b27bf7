"""Templates of Xiaomi's MiMo models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import QWEN_TURNS

MIMO = replace(QWEN_TURNS, name="mimo", default_system="You are a helpful assistant.", reasoning=True)

MIMO_V2 = replace(
    MIMO,
    name="mimo_v2",
    default_system="You are MiMo, a helpful AI assistant engineered by Xiaomi.",
    thought_words=("<think>", "</think>"),
)

MIMO_VL = replace(
    MIMO,
    name="mimo_vl",
    default_system="You are MiMo, an AI assistant developed by Xiaomi.",
    media="qwen2_vl",
)

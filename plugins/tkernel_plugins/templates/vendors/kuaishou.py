"""The template of Kuaishou's Keye-VL."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import QWEN_TURNS

KEYE_VL = replace(QWEN_TURNS, name="keye_vl", reasoning=True, media="qwen2_vl")

"""The template of OpenMOSS' MOSS-VL."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import QWEN_TURNS

MOSS_VL = replace(QWEN_TURNS, name="moss_vl", strip_tools=True, media="moss_vl")

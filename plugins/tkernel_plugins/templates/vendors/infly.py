"""The template of INF's OpenCoder."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TOOL_TURNS

OPENCODER = replace(
    IM_TOOL_TURNS, name="opencoder", default_system="You are OpenCoder, created by OpenCoder Team."
)

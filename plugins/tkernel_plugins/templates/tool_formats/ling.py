"""Ling 2: Qwen's format under a heading of its own, with thinking switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.format import Tool
from tkernel_plugins.templates.tool_formats.qwen import QWEN

_AFTER = "\ndetailed thinking off"


def _describe(tools: Sequence[Tool]) -> Text:
    return QWEN.describe(tools).without_leading("\n") + _AFTER


LING = replace(
    QWEN,
    name="ling",
    describe=_describe,
    jinja_tools=QWEN.jinja_tools.replace("'\\n\\n# Tools", "'# Tools", 1) + f"\n{{{{- {_AFTER!r} }}}}",
)

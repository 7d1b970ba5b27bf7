"""How templates write tools and calls, and how calls are read back from a reply."""

from __future__ import annotations

from collections.abc import Mapping

from tkernel_plugins.templates.tool_formats.default import DEFAULT
from tkernel_plugins.templates.tool_formats.format import ToolFormat
from tkernel_plugins.templates.tool_formats.glm4 import GLM4
from tkernel_plugins.templates.tool_formats.llama3 import LLAMA3
from tkernel_plugins.templates.tool_formats.mistral import MISTRAL
from tkernel_plugins.templates.tool_formats.qwen import QWEN

__all__ = ["TOOL_FORMATS", "ToolFormat"]

TOOL_FORMATS: Mapping[str, ToolFormat] = {f.name: f for f in (DEFAULT, GLM4, LLAMA3, MISTRAL, QWEN)}

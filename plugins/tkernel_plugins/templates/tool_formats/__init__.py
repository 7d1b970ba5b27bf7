"""How templates write tools and calls, and how calls are read back from a reply."""

from __future__ import annotations

from collections.abc import Mapping

from tkernel_plugins.templates.tool_formats.default import DEFAULT
from tkernel_plugins.templates.tool_formats.format import ToolFormat
from tkernel_plugins.templates.tool_formats.gemma4 import GEMMA4
from tkernel_plugins.templates.tool_formats.glm4 import GLM4
from tkernel_plugins.templates.tool_formats.glm4_moe import GLM4_MOE
from tkernel_plugins.templates.tool_formats.lfm2 import LFM2
from tkernel_plugins.templates.tool_formats.ling import LING
from tkernel_plugins.templates.tool_formats.llama3 import LLAMA3
from tkernel_plugins.templates.tool_formats.minimax1 import MINIMAX1
from tkernel_plugins.templates.tool_formats.minimax2 import MINIMAX2
from tkernel_plugins.templates.tool_formats.mistral import MISTRAL
from tkernel_plugins.templates.tool_formats.qwen import QWEN
from tkernel_plugins.templates.tool_formats.qwen3_5 import QWEN3_5
from tkernel_plugins.templates.tool_formats.seed_oss import SEED_OSS

__all__ = ["TOOL_FORMATS", "ToolFormat"]

_ALL = (
    *(DEFAULT, GEMMA4, GLM4, GLM4_MOE, LFM2, LING, LLAMA3),
    *(MINIMAX1, MINIMAX2, MISTRAL, QWEN, QWEN3_5, SEED_OSS),
)
TOOL_FORMATS: Mapping[str, ToolFormat] = {f.name: f for f in _ALL}

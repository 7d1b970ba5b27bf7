"""GLM-4.5 and later: tools as in Qwen's format, each argument between tags of its own."""

from __future__ import annotations

import re

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.tool_formats.format import ToolFormat, read_tagged
from tkernel_plugins.templates.tool_formats.qwen import QWEN
from tkernel_plugins.templates.tool_formats.tagged import CallTags, ToolList

_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML "
    "format:\n<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>\n"
)
_TOOLS = ToolList(_BEFORE, _AFTER, opening="\n", in_wrapper=True)
_TAGS = CallTags(
    before_name="\n<tool_call>",
    after_name="",
    before_key="\n<arg_key>",
    before_value="</arg_key>\n<arg_value>",
    after_value="</arg_value>",
    end="",
)

# The closing tag of a call is written by the models, not by LLaMA-Factory.
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_CALL = re.compile(
    rf"\n*<tool_call>([^\n<{{]+)((?:\s*{_ARGUMENT.pattern.replace('(.*?)', '.*?')})*)(?:\s*</tool_call>)?",
    re.DOTALL,
)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT) or QWEN.read(text)


GLM4_MOE = ToolFormat(
    name="glm4_moe",
    describe=_TOOLS.describe,
    write=_TAGS.write,
    read=_read,
    jinja_tools=_TOOLS.jinja,
    jinja_calls=_TAGS.jinja,
)

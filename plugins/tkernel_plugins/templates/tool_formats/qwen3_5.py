"""Qwen 3.5 and 3.6: calls as XML, values on lines of their own."""

from __future__ import annotations

import re

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.tool_formats.format import ToolFormat, read_tagged
from tkernel_plugins.templates.tool_formats.tagged import CallTags, ToolList

_BEFORE = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
_AFTER = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple "
    "lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be "
    "nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function "
    "call, but NOT after\n"
    "- If there is no function call available, answer the question like normal with your current knowledge "
    "and do not tell the user about function calls\n</IMPORTANT>"
)
_TOOLS = ToolList(_BEFORE, _AFTER, opening="\n")
_TAGS = CallTags(
    before_name="<tool_call>\n<function=",
    after_name=">",
    before_key="\n<parameter=",
    before_value=">\n",
    after_value="\n</parameter>",
    end="\n</function>\n</tool_call>",
)

_CALL = re.compile(r"<tool_call>\s*<function=\s*([^\s<>]+)\s*>(.*?)</function>\s*</tool_call>", re.DOTALL)
_ARGUMENT = re.compile(r"<parameter=(.*?)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


QWEN3_5 = ToolFormat(
    name="qwen3_5",
    describe=_TOOLS.describe,
    write=_TAGS.write,
    read=_read,
    jinja_tools=_TOOLS.jinja,
    jinja_calls=_TAGS.jinja,
)

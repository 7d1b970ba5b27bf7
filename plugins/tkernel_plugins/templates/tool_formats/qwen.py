"""Qwen 2.5 and 3: JSON between XML tags."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_ARGUMENTS,
    ToolFormat,
    as_calls,
    dump,
    json_or_none,
    parsed_arguments,
)
from tkernel_plugins.templates.tool_formats.tagged import ToolList

_TOOLS = ToolList(
    before="\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    after="\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
    '"arguments": <args-json-object>}\n</tool_call>',
    opening="\n",
    in_wrapper=True,
)


def _write(calls: Sequence[ToolCall]) -> Text:
    objects = [dump({"name": call.name, "arguments": parsed_arguments(call)}) for call in calls]
    return join("\n", ["<tool_call>\n" + Text.of_data(text) + "\n</tool_call>" for text in objects])


_TOOL_CALL = re.compile(r"<tool_call>(.+?)</tool_call>(?=\s*<tool_call>|\s*$)", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    calls: list[ToolCall] = []
    for match in _TOOL_CALL.finditer(text):
        read = as_calls(json_or_none(match[1].strip()), "arguments")
        if read is None:
            return None
        calls += read
    return (text[: text.index("<tool_call>")], calls) if calls else None


QWEN = ToolFormat(
    name="qwen",
    describe=_TOOLS.describe,
    write=_write,
    read=_read,
    jinja_tools=_TOOLS.jinja,
    jinja_calls=f"""\
{{%- for call in calls %}}
    {{{{- '' if loop.first else '\\n' }}}}
    {{{{- '<tool_call>\\n{{"name": ' + call.name | tojson + ', "arguments": ' + {JINJA_ARGUMENTS} + '}}\\n</tool_call>' }}}}
{{%- endfor %}}""",
)

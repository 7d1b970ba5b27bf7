"""MiniMax-M1: calls as lines of JSON between tags."""

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

_BEFORE = "You are provided with these tools:\n<tools>\n"
_AFTER = (
    "</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide "
    "tool-name and json-object of arguments, following the format below:\n<tool_calls>\n"
    '{"name": <tool-name-1>, "arguments": <args-json-object-1>}\n...\n</tool_calls>'
)
_TOOLS = ToolList(_BEFORE, _AFTER, closing="\n")


def _write(calls: Sequence[ToolCall]) -> Text:
    lines = [Text.of_data(dump({"name": call.name, "arguments": parsed_arguments(call)})) for call in calls]
    return "<tool_calls>\n" + join("\n", lines) + "\n</tool_calls>"


_CALLS = re.compile(r"<tool_calls>\s*(.+)\s*</tool_calls>", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    match = _CALLS.search(text)
    if match is None:
        return None
    # LLaMA-Factory's rule: lines that are no calls are passed over.
    lines = [as_calls(json_or_none(line), "arguments") for line in match[1].split("\n")]
    calls = [call for line in lines for call in line or ()]
    return (text[: match.start()], calls) if calls else None


MINIMAX1 = ToolFormat(
    name="minimax1",
    describe=_TOOLS.describe,
    write=_write,
    read=_read,
    jinja_tools=_TOOLS.jinja,
    jinja_calls=f"""\
{{{{- '<tool_calls>\\n' if calls else '' }}}}
{{%- for call in calls %}}
    {{{{- '{{"name": ' + call.name | tojson + ', "arguments": ' + {JINJA_ARGUMENTS} + '}}\\n' }}}}
{{%- endfor %}}
{{{{- '</tool_calls>' if calls else '' }}}}""",
)

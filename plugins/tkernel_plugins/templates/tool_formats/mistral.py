"""Mistral: JSON between control tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_ARGUMENTS,
    JINJA_WRAPPED,
    Tool,
    ToolFormat,
    as_calls,
    dump,
    json_or_none,
    parsed_arguments,
    wrapped,
)


def _describe(tools: Sequence[Tool]) -> Text:
    listed = Text.of_data(dump([wrapped(tool) for tool in tools]))
    return "[AVAILABLE_TOOLS] " + listed + "[/AVAILABLE_TOOLS]"


def _write(calls: Sequence[ToolCall]) -> Text:
    return Text.of_data(dump([{"name": call.name, "arguments": parsed_arguments(call)} for call in calls]))


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    calls = as_calls(json_or_none(text.strip().removeprefix("[TOOL_CALLS]").strip()), "arguments")
    return ("", calls) if calls else None


MISTRAL = ToolFormat(
    name="mistral",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- '[AVAILABLE_TOOLS] [' }}}}
{{%- for tool in tools %}}
    {{{{- '' if loop.first else ', ' }}}}
    {{{{- {JINJA_WRAPPED} | tojson }}}}
{{%- endfor %}}
{{{{- '][/AVAILABLE_TOOLS]' }}}}""",
    jinja_calls=f"""\
{{{{- '[' }}}}
{{%- for call in calls %}}
    {{{{- '' if loop.first else ', ' }}}}
    {{{{- '{{"name": ' + call.name | tojson + ', "arguments": ' + {JINJA_ARGUMENTS} + '}}' }}}}
{{%- endfor %}}
{{{{- ']' }}}}""",
)

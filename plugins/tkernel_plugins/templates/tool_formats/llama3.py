"""Llama 3: tools as JSON schemas under the date, calls as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.data.today import today
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
    text = Text(
        f"Cutting Knowledge Date: December 2023\nToday Date: {today():%d %b %Y}\n\n"
        "You have access to the following functions. To call a function, please respond with JSON for a "
        'function call. Respond in the format {"name": function name, "parameters": dictionary of argument '
        "name and its value}. Do not use variables.\n\n"
    )
    for tool in tools:
        text = text + Text.of_data(dump(wrapped(tool), indent=4)) + "\n\n"
    return text


def _write(calls: Sequence[ToolCall]) -> Text:
    objects = [{"name": call.name, "parameters": parsed_arguments(call)} for call in calls]
    return Text.of_data(dump(objects[0] if len(objects) == 1 else objects))


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    calls = as_calls(json_or_none(text.strip()), "parameters")
    return ("", calls) if calls else None


LLAMA3 = ToolFormat(
    name="llama3",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + strftime_now('%d %b %Y') + '\\n\\n' }}}}
{{{{- 'You have access to the following functions. To call a function, please respond with JSON for a ' }}}}
{{{{- 'function call. Respond in the format {{"name": function name, "parameters": dictionary of argument ' }}}}
{{{{- 'name and its value}}. Do not use variables.\\n\\n' }}}}
{{%- for tool in tools %}}
    {{{{- {JINJA_WRAPPED} | tojson(indent=4) + '\\n\\n' }}}}
{{%- endfor %}}""",
    jinja_calls=f"""\
{{{{- '[' if calls | length > 1 else '' }}}}
{{%- for call in calls %}}
    {{{{- '' if loop.first else ', ' }}}}
    {{{{- '{{"name": ' + call.name | tojson + ', "parameters": ' + {JINJA_ARGUMENTS} + '}}' }}}}
{{%- endfor %}}
{{{{- ']' if calls | length > 1 else '' }}}}""",
)

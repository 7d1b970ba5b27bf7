"""Tools as a list in plain words, calls as ReAct actions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    Tool,
    ToolFormat,
    bare,
    dump,
    json_from,
    json_or_none,
    parsed_arguments,
)


def _describe(tools: Sequence[Tool]) -> Text:
    text = Text("You have access to the following tools:\n")
    names = []
    for tool in map(bare, tools):
        parameters = tool.get("parameters") or {}
        lines = ""
        for name, parameter in (parameters.get("properties") or {}).items():
            required = ", required" if name in (parameters.get("required") or ()) else ""
            enum = parameter.get("enum")
            choices = ", ".join(map(str, enum if isinstance(enum, list) else ()))
            enum = f", should be one of [{choices}]" if choices else ""
            item = parameter.get("items")
            items = (
                f", where each item should be {item.get('type') or ''}"
                if isinstance(item, dict) and item
                else ""
            )
            described = parameter.get("description") or ""
            lines += f"  - {name} ({parameter.get('type') or ''}{required}): {described}{enum}{items}\n"
        body = f"{tool['name']}\nTool Description: {tool.get('description') or ''}\nTool Args:\n{lines}"
        text = text + "> Tool Name: " + Text.of_data(body) + "\n"
        names.append(tool["name"])
    return (
        text
        + "Use the following format if using a tool:\n```\nAction: tool name (one of ["
        + Text.of_data(", ".join(names))
        + "])\nAction Input: the input to the tool, in a JSON format representing the kwargs "
        + '(e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n'
    )


def _write(calls: Sequence[ToolCall]) -> Text:
    return join(
        "\n",
        [
            "Action: "
            + Text.of_data(call.name)
            + "\nAction Input: "
            + Text.of_data(dump(parsed_arguments(call)))
            for call in calls
        ],
    )


_ACTION = re.compile(r"Action:\s*([a-zA-Z0-9_]+)\s*Action Input:\s*(.+?)(?=\s*Action:|\s*$)", re.DOTALL)


_HEAD = re.compile(r"Action:[ \t]*([^\n]+?)\s*\nAction Input:\s*")


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    if exact := _read_exactly(text):
        return exact
    calls = []
    for match in _ACTION.finditer(text):
        arguments = json_or_none(match[2].strip().strip('"').strip("`"))
        if arguments is None:
            return None
        calls.append(ToolCall(match[1], dump(arguments)))
    return (text[: text.index("Action:")], calls) if calls else None


def _read_exactly(text: str) -> tuple[str, list[ToolCall]] | None:
    """Calls as `_write` writes them: their JSON may hold anything, `Action:` too."""
    calls, start = [], text.find("Action:")
    position = max(start, 0)
    while head := _HEAD.match(text, position):
        value = json_from(text, head.end())
        if value is None:
            return None
        calls.append(ToolCall(head[1], dump(value[0])))
        position = len(text) - len(text[value[1] :].lstrip())
    return (text[:start], calls) if calls and position == len(text) else None


DEFAULT = ToolFormat(
    name="default",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools="""\
{{- 'You have access to the following tools:\\n' }}
{%- set names = namespace(all=[]) %}
{%- for tool in tools %}
    {%- set tool = tool.function if tool.type == 'function' and tool.function is defined else tool %}
    {%- set names.all = names.all + [tool.name] %}
    {{- '> Tool Name: ' + tool.name + '\\nTool Description: ' + (tool.description or '') + '\\nTool Args:\\n' }}
    {%- for name, parameter in ((tool.parameters or {}).properties or {}).items() %}
        {{- '  - ' + name + ' (' + (parameter.type or '') | string }}
        {{- ', required' if name in (tool.parameters.required or []) else '' }}
        {{- '): ' + (parameter.description or '') }}
        {{- ', should be one of [' + parameter.enum | join(', ') + ']' if parameter.enum else '' }}
        {{- ', where each item should be ' + (parameter['items'].type or '') | string if parameter['items'] is mapping else '' }}
        {{- '\\n' }}
    {%- endfor %}
    {{- '\\n' }}
{%- endfor %}
{{- 'Use the following format if using a tool:\\n```\\nAction: tool name (one of [' + names.all | join(', ') }}
{{- '])\\nAction Input: the input to the tool, in a JSON format representing the kwargs ' }}
{{- '(e.g. ```{"input": "hello world", "num_beams": 5}```)\\n```\\n' }}""",
    jinja_calls="""\
{%- for call in calls %}
    {{- '' if loop.first else '\\n' }}
    {{- 'Action: ' + call.name + '\\nAction Input: ' }}
    {{- call.arguments if call.arguments is string else call.arguments | tojson }}
{%- endfor %}""",
)

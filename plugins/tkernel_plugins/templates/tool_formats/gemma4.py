"""Gemma 4: declarations and calls in a notation of its own, strings between `<|"|>` tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_BARE,
    Tool,
    ToolFormat,
    bare,
    dump,
    json_or_none,
    parsed_arguments,
)

_QUOTE = '<|"|>'


def _quoted(value: Any) -> Text:
    return _QUOTE + Text.of_data(str(value)) + _QUOTE


def _block(parts: Sequence[Text]) -> Text:
    return "{" + join(",", list(parts)) + "}"


def _fields(schema: Mapping[str, Any]) -> list[Text]:
    """Description and type of a schema, those that it has."""
    fields = ["description:" + _quoted(schema["description"])] if schema.get("description") else []
    return fields + (["type:" + _quoted(str(schema["type"]).upper())] if schema.get("type") else [])


def _parameters(schema: Mapping[str, Any]) -> Text:
    parts = []
    if schema.get("properties"):
        listed = [Text.of_data(name) + ":" + _block(_fields(p)) for name, p in schema["properties"].items()]
        parts.append("properties:" + _block(listed))
    if schema.get("required"):
        parts.append("required:[" + join(",", [_quoted(name) for name in schema["required"]]) + "]")
    return _block(parts + _fields({"type": schema.get("type")}))


def _declaration(tool: Tool) -> Text:
    parts = ["description:" + _quoted(tool.get("description") or "")]
    if tool.get("parameters"):
        parts.append("parameters:" + _parameters(tool["parameters"]))
    response = tool.get("response")
    if isinstance(response, Mapping) and response:
        is_object = str(response.get("type", "")).upper() == "OBJECT"
        known = ("description", "type") if is_object else ("description",)
        parts.append("response:" + _block(_fields({key: response.get(key) for key in known})))
    return "declaration:" + Text.of_data(tool["name"]) + _block(parts)


def _describe(tools: Sequence[Tool]) -> Text:
    return join("\n", [_declaration(bare(tool)) for tool in tools])


def _value(value: Any) -> Text:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return _block([Text.of_data(key) + ":" + _value(value[key]) for key in sorted(value)])
    if isinstance(value, list):
        return "[" + join(",", [_value(item) for item in value]) + "]"
    return Text.of_data(dump(value))


def _write(calls: Sequence[ToolCall]) -> Text:
    texts = []
    for call in calls:
        arguments = parsed_arguments(call)
        written = Text.of_data(arguments) if isinstance(arguments, str) else _value(arguments)
        inside = written if isinstance(arguments, dict) else "{" + written + "}"
        texts.append("<|tool_call>call:" + Text.of_data(call.name) + inside + "<tool_call|>")
    return join("", texts)


_CALL = re.compile(r"<\|tool_call>call:([^{\s]+)(\{.*?\})<tool_call\|>", re.DOTALL)
_STRING_OR_KEY = re.compile(
    r'<\|"\|>(.*?)<\|"\|>|(?<=[{,])\s*([^\s:,{}\[\]<"][^:,{}\[\]<"]*?)\s*(?=:)|\b(None)\b', re.DOTALL
)


def _as_json(found: re.Match[str]) -> str:
    if found[3]:  # the model's own template writes null in Python
        return "null"
    return json.dumps(found[1] if found[2] is None else found[2])


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    calls, start = [], None
    for match in _CALL.finditer(text):
        start = match.start() if start is None else start
        arguments = json_or_none(_STRING_OR_KEY.sub(_as_json, match[2]))
        if arguments is None:
            return None
        calls.append(ToolCall(match[1], dump(arguments)))
    return (text[:start], calls) if calls else None


GEMMA4 = ToolFormat(
    name="gemma4",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{%- for tool in tools %}}
    {{%- set tool = {JINJA_BARE} %}}
    {{{{- ('' if loop.first else '\\n') + 'declaration:' + tool.name + '{{description:{_QUOTE}' }}}}
    {{{{- (tool.description or '') + '{_QUOTE}' }}}}
    {{%- if tool.parameters %}}
        {{%- set parts = namespace(all=[]) %}}
        {{%- for name, schema in (tool.parameters.properties or {{}}).items() %}}
            {{%- set fields = [] %}}
            {{%- if schema.description %}}
                {{%- set fields = fields + ['description:{_QUOTE}' + schema.description + '{_QUOTE}'] %}}
            {{%- endif %}}
            {{%- if schema.type %}}
                {{%- set fields = fields + ['type:{_QUOTE}' + schema.type | upper + '{_QUOTE}'] %}}
            {{%- endif %}}
            {{%- set parts.all = parts.all + [name + ':{{' + fields | join(',') + '}}'] %}}
        {{%- endfor %}}
        {{%- set parts.all = ['properties:{{' + parts.all | join(',') + '}}'] if parts.all else [] %}}
        {{%- if tool.parameters.required %}}
            {{%- set required = tool.parameters.required | join('{_QUOTE},{_QUOTE}') %}}
            {{%- set parts.all = parts.all + ['required:[{_QUOTE}' + required + '{_QUOTE}]'] %}}
        {{%- endif %}}
        {{%- if tool.parameters.type %}}
            {{%- set parts.all = parts.all + ['type:{_QUOTE}' + tool.parameters.type | upper + '{_QUOTE}'] %}}
        {{%- endif %}}
        {{{{- ',parameters:{{' + parts.all | join(',') + '}}' }}}}
    {{%- endif %}}
    {{%- if tool.response %}}
        {{%- set fields = [] %}}
        {{%- if tool.response.description %}}
            {{%- set fields = fields + ['description:{_QUOTE}' + tool.response.description + '{_QUOTE}'] %}}
        {{%- endif %}}
        {{%- if (tool.response.type or '') | upper == 'OBJECT' %}}
            {{%- set fields = fields + ['type:{_QUOTE}OBJECT{_QUOTE}'] %}}
        {{%- endif %}}
        {{{{- ',response:{{' + fields | join(',') + '}}' }}}}
    {{%- endif %}}
    {{{{- '}}' }}}}
{{%- endfor %}}""",
    jinja_calls=f"""\
{{%- macro spelled(value) %}}
    {{%- if value is string %}}
        {{{{- '{_QUOTE}' + value + '{_QUOTE}' }}}}
    {{%- elif value is mapping %}}
        {{{{- '{{' }}}}
        {{%- for key, item in value | dictsort(true) %}}
            {{{{- ('' if loop.first else ',') + key + ':' + spelled(item) }}}}
        {{%- endfor %}}
        {{{{- '}}' }}}}
    {{%- elif value is iterable %}}
        {{{{- '[' }}}}
        {{%- for item in value %}}
            {{{{- ('' if loop.first else ',') + spelled(item) }}}}
        {{%- endfor %}}
        {{{{- ']' }}}}
    {{%- else %}}
        {{{{- value | tojson }}}}
    {{%- endif %}}
{{%- endmacro %}}
{{%- for call in calls %}}
    {{{{- '<|tool_call>call:' + call.name }}}}
    {{{{- spelled(call.arguments) if call.arguments is mapping else '{{' + call.arguments + '}}' }}}}
    {{{{- '<tool_call|>' }}}}
{{%- endfor %}}""",
)

"""LFM2: tools as a JSON list, calls as a list of Python calls.

Strings are put between quotes as they are (LLaMA-Factory's rule), while the models write Python. A call is
read as Python; where that cannot be right (quotes inside a string), as it was written here. What no reader can
tell apart: a backslash in a string, which Python reads as an escape, and a string that spells the next argument
(`", b="`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_BARE,
    JINJA_OBJECT,
    Tool,
    ToolFormat,
    bare,
    dump,
    json_from,
    object_arguments,
)

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_NAMES: dict[str, Any] = {"true": True, "false": False, "null": None}


def _describe(tools: Sequence[Tool]) -> Text:
    listed = Text.of_data(dump([bare(tool) for tool in tools]))
    return "List of tools: <|tool_list_start|>" + listed + "<|tool_list_end|>"


def _write(calls: Sequence[ToolCall]) -> Text:
    texts = []
    for call in calls:
        arguments = [
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={dump(value)}"
            for key, value in object_arguments(call).items()
        ]
        texts.append(Text.of_data(f"{call.name}({', '.join(arguments)})"))
    return _START + "[" + join(", ", texts) + "]" + _END


class _JsonNames(ast.NodeTransformer):
    """JSON's `true`, `false` and `null` as Python's values."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_NAMES[node.id]) if node.id in _NAMES else node


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    before, start, rest = text.partition(_START)
    written, end, _ = rest.partition(_END)
    if not start or not end:
        return None
    calls = _read_python(written)
    if not calls or _write(calls).text != _START + written + _END:
        exact = _read_exactly(written)
        calls = exact if exact and not (calls and _has_backslash(exact)) else calls
    return (before, calls) if calls else None


def _has_backslash(calls: Sequence[ToolCall]) -> bool:
    values = (value for call in calls for value in object_arguments(call).values())
    return any(isinstance(value, str) and "\\" in value for value in values)


def _read_python(written: str) -> list[ToolCall]:
    """A list of calls in Python, or one call; none if it is no such thing."""
    # Line breaks stand in strings as they are, where Python wants them escaped.
    written = written.strip().replace("\r", "\\r").replace("\n", "\\n")
    try:
        body = ast.parse(written, mode="eval").body
        nodes = body.elts if isinstance(body, ast.List) else [body]
        return [_call(node) for node in nodes]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


_NAME = r"[^\s=,()\"]+"
_HEAD = re.compile(rf"(?:\[|, )({_NAME})\(")
_KEY = re.compile(rf"(?:, )?({_NAME})=")
_STRING = re.compile(rf'"(.*?)"(?=, {_NAME}=|\)(?:, {_NAME}\(|\]\Z))', re.DOTALL)


def _read_exactly(written: str) -> list[ToolCall]:
    """Calls as `_write` writes them; a string ends where the rest goes on like one.

    Returns none if it is no such thing.
    """
    calls, position = [], 0
    while head := _HEAD.match(written, position):
        arguments: dict[str, Any] = {}
        position = head.end()
        while key := _KEY.match(written, position):
            string = _STRING.match(written, key.end())
            value = (string[1], string.end()) if string else json_from(written, key.end())
            if value is None:
                return []
            arguments[key[1]], position = value
        calls.append(ToolCall(head[1], dump(arguments)))
        position += 1
    return calls if written[position - 1 :] == ")]" else []


def _call(node: ast.expr) -> ToolCall:
    """A call written in Python; raises ValueError for anything else."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("not a call with named arguments")
    arguments = {
        word.arg: ast.literal_eval(ast.unparse(_JsonNames().visit(word.value))) for word in node.keywords
    }
    return ToolCall(node.func.id, dump(arguments))


LFM2 = ToolFormat(
    name="lfm2",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- 'List of tools: <|tool_list_start|>[' }}}}
{{%- for tool in tools %}}
    {{{{- '' if loop.first else ', ' }}}}
    {{{{- {JINJA_BARE} | tojson }}}}
{{%- endfor %}}
{{{{- ']<|tool_list_end|>' }}}}""",
    jinja_calls=f"""\
{{{{- {_START!r} + '[' if calls else '' }}}}
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else ', ') + call.name + '(' }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- ('' if loop.first else ', ') + key + '=' }}}}
        {{{{- '"' + value + '"' if value is string else value | tojson }}}}
    {{%- endfor %}}
    {{{{- ')' }}}}
{{%- endfor %}}
{{{{- ']' + {_END!r} if calls else '' }}}}""",
)

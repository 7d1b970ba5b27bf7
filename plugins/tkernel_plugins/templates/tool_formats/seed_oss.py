"""Seed-OSS: tools as one JSON list, calls as XML. As in LLaMA-Factory, the tag that opens a function is not
closed (`<function=NAME`); it is read with and without."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_OBJECT,
    JINJA_VALUE,
    Tool,
    ToolFormat,
    dump,
    object_arguments,
    read_tagged,
    spelled,
)

_BEFORE = (
    "system\nYou are Doubao, a helpful AI assistant. You may call one or more functions to assist with the "
    "user query.Tool List:\nYou are authorized to use the following tools (described in JSON Schema format). "
    "Before performing any task, you must decide how to call them based on the descriptions and parameters of "
    "these tools.\n"
)
_AFTER = (
    "\n工具调用请遵循如下格式:\n<seed:tool_call>\n<function=example_function_name>\n"
    "<parameter=example_parameter_1>value_1</parameter>\n<parameter=example_parameter_2>This is the value for "
    "the second parameter\nthat can span\nmultiple lines</parameter>\n</function>\n</seed:tool_call>\n"
)


def _describe(tools: Sequence[Tool]) -> Text:
    return _BEFORE + Text.of_data(dump(list(tools))) + _AFTER


def _write_one(call: ToolCall) -> Text:
    text = "\n<seed:tool_call>\n<function=" + Text.of_data(call.name)
    for key, value in object_arguments(call).items():
        text = text + "\n<parameter=" + Text.of_data(key) + ">" + spelled(value) + "</parameter>"
    return text + "\n</function>\n</seed:tool_call>"


def _write(calls: Sequence[ToolCall]) -> Text:
    return join("\n", [_write_one(call) for call in calls])


_CALL = re.compile(
    r"\n*<seed:tool_call>\s*<function=\s*([^\s<>]+)>?(.*?)</function>\s*</seed:tool_call>", re.DOTALL
)
_ARGUMENT = re.compile(r"<parameter=(.*?)>(.*?)</parameter>", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


SEED_OSS = ToolFormat(
    name="seed_oss",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"{{{{- {_BEFORE!r} + tools | tojson + {_AFTER!r} }}}}",
    jinja_calls=f"""\
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else '\\n') + '\\n<seed:tool_call>\\n<function=' + call.name }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- '\\n<parameter=' + key + '>' + {JINJA_VALUE} + '</parameter>' }}}}
    {{%- endfor %}}
    {{{{- '\\n</function>\\n</seed:tool_call>' }}}}
{{%- endfor %}}""",
)

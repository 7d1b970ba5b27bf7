"""GLM-4.5 and later: tools as in Qwen's format, each argument between tags of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_OBJECT,
    JINJA_VALUE,
    JINJA_WRAPPED,
    Tool,
    ToolFormat,
    dump,
    object_arguments,
    read_tagged,
    spelled,
    wrapped,
)
from tkernel_plugins.templates.tool_formats.qwen import QWEN

_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML "
    "format:\n<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>\n"
)


def _describe(tools: Sequence[Tool]) -> Text:
    text = Text(_BEFORE)
    for tool in tools:
        text = text + "\n" + Text.of_data(dump(wrapped(tool)))
    return text + _AFTER


def _write_one(call: ToolCall) -> Text:
    text = "\n<tool_call>" + Text.of_data(call.name)
    for key, value in object_arguments(call).items():
        text = text + "\n<arg_key>" + Text.of_data(key) + "</arg_key>"
        text = text + "\n<arg_value>" + spelled(value) + "</arg_value>"
    return text


def _write(calls: Sequence[ToolCall]) -> Text:
    return join("\n", [_write_one(call) for call in calls])


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
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- {_BEFORE!r} }}}}
{{%- for tool in tools %}}
    {{{{- '\\n' + {JINJA_WRAPPED} | tojson }}}}
{{%- endfor %}}
{{{{- {_AFTER!r} }}}}""",
    jinja_calls=f"""\
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else '\\n') + '\\n<tool_call>' + call.name }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' + {JINJA_VALUE} + '</arg_value>' }}}}
    {{%- endfor %}}
{{%- endfor %}}""",
)

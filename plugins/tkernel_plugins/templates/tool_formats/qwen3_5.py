"""Qwen 3.5 and 3.6: calls as XML, values on lines of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_BARE,
    JINJA_OBJECT,
    JINJA_VALUE,
    Tool,
    ToolFormat,
    bare,
    dump,
    object_arguments,
    read_tagged,
    spelled,
)

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


def _describe(tools: Sequence[Tool]) -> Text:
    text = Text(_BEFORE)
    for tool in tools:
        text = text + "\n" + Text.of_data(dump(bare(tool)))
    return text + _AFTER


def _write_one(call: ToolCall) -> Text:
    text = "<tool_call>\n<function=" + Text.of_data(call.name) + ">"
    for key, value in object_arguments(call).items():
        text = text + "\n<parameter=" + Text.of_data(key) + ">\n" + spelled(value) + "\n</parameter>"
    return text + "\n</function>\n</tool_call>"


def _write(calls: Sequence[ToolCall]) -> Text:
    return join("\n", [_write_one(call) for call in calls])


_CALL = re.compile(r"<tool_call>\s*<function=\s*([^\s<>]+)\s*>(.*?)</function>\s*</tool_call>", re.DOTALL)
_ARGUMENT = re.compile(r"<parameter=(.*?)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


QWEN3_5 = ToolFormat(
    name="qwen3_5",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- {_BEFORE!r} }}}}
{{%- for tool in tools %}}
    {{{{- '\\n' + {JINJA_BARE} | tojson }}}}
{{%- endfor %}}
{{{{- {_AFTER!r} }}}}""",
    jinja_calls=f"""\
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else '\\n') + '<tool_call>\\n<function=' + call.name + '>' }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- '\\n<parameter=' + key + '>\\n' + {JINJA_VALUE} + '\\n</parameter>' }}}}
    {{%- endfor %}}
    {{{{- '\\n</function>\\n</tool_call>' }}}}
{{%- endfor %}}""",
)

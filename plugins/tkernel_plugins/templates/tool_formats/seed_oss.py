"""Seed-OSS: tools as one JSON list, calls as XML. As in LLaMA-Factory, the tag that opens a function is not
closed (`<function=NAME`); it is read with and without."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.format import Tool, ToolFormat, dump, read_tagged
from tkernel_plugins.templates.tool_formats.tagged import CallTags

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


_TAGS = CallTags(
    before_name="\n<seed:tool_call>\n<function=",
    after_name="",
    before_key="\n<parameter=",
    before_value=">",
    after_value="</parameter>",
    end="\n</function>\n</seed:tool_call>",
)

_CALL = re.compile(
    r"\n*<seed:tool_call>\s*<function=\s*([^\s<>]+)>?(.*?)</function>\s*</seed:tool_call>", re.DOTALL
)
_ARGUMENT = re.compile(r"<parameter=(.*?)>(.*?)</parameter>", re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


SEED_OSS = ToolFormat(
    name="seed_oss",
    describe=_describe,
    write=_TAGS.write,
    read=_read,
    jinja_tools=f"{{{{- {_BEFORE!r} + tools | tojson + {_AFTER!r} }}}}",
    jinja_calls=_TAGS.jinja,
)

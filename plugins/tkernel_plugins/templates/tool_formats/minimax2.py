"""MiniMax-M2: calls as XML. As in LLaMA-Factory, the tag that the models put around all calls of a reply is
described but not written; it is read with and without."""

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

_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more tools to assist with the user query.\n"
    "Here are the tools available in JSONSchema format:\n\n<tools>\n"
)
_AFTER = (
    "</tools>\n\nWhen making tool calls, use XML format to invoke tools and pass parameters:\n\n"
    '<minimax:tool_call>\n<invoke name="tool-name-1">\n<parameter name="param-key-1">param-value-1</parameter>\n'
    '<parameter name="param-key-2">param-value-2</parameter>\n...\n</invoke>\n</minimax:tool_call>'
)


def _describe(tools: Sequence[Tool]) -> Text:
    text = Text(_BEFORE)
    for tool in tools:
        text = text + "<tool>" + Text.of_data(dump(bare(tool))) + "</tool>\n"
    return text + _AFTER


def _write_one(call: ToolCall) -> Text:
    text = '<invoke name="' + Text.of_data(call.name) + '">'
    for key, value in object_arguments(call).items():
        text = text + '\n<parameter name="' + Text.of_data(key) + '">' + spelled(value) + "</parameter>"
    return text + "\n</invoke>"


def _write(calls: Sequence[ToolCall]) -> Text:
    return join("\n", [_write_one(call) for call in calls])


_CALL = re.compile(r'(?:<minimax:tool_call>\s*)?<invoke name="(.*?)">(.*?)</invoke>', re.DOTALL)
_ARGUMENT = re.compile(r'<parameter name="(.*?)">(.*?)</parameter>', re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


MINIMAX2 = ToolFormat(
    name="minimax2",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools=f"""\
{{{{- {_BEFORE!r} }}}}
{{%- for tool in tools %}}
    {{{{- '<tool>' + {JINJA_BARE} | tojson + '</tool>\\n' }}}}
{{%- endfor %}}
{{{{- {_AFTER!r} }}}}""",
    jinja_calls=f"""\
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else '\\n') + '<invoke name="' + call.name + '">' }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- '\\n<parameter name="' + key + '">' + {JINJA_VALUE} + '</parameter>' }}}}
    {{%- endfor %}}
    {{{{- '\\n</invoke>' }}}}
{{%- endfor %}}""",
)

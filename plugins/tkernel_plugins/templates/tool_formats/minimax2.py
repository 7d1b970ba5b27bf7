"""MiniMax-M2: calls as XML. As in LLaMA-Factory, the tag that the models put around all calls of a reply is
described but not written; it is read with and without."""

from __future__ import annotations

import re

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.tool_formats.format import ToolFormat, read_tagged
from tkernel_plugins.templates.tool_formats.tagged import CallTags, ToolList

_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more tools to assist with the user query.\n"
    "Here are the tools available in JSONSchema format:\n\n<tools>\n"
)
_AFTER = (
    "</tools>\n\nWhen making tool calls, use XML format to invoke tools and pass parameters:\n\n"
    '<minimax:tool_call>\n<invoke name="tool-name-1">\n<parameter name="param-key-1">param-value-1</parameter>\n'
    '<parameter name="param-key-2">param-value-2</parameter>\n...\n</invoke>\n</minimax:tool_call>'
)
_TOOLS = ToolList(_BEFORE, _AFTER, opening="<tool>", closing="</tool>\n")
_TAGS = CallTags(
    before_name='<invoke name="',
    after_name='">',
    before_key='\n<parameter name="',
    before_value='">',
    after_value="</parameter>",
    end="\n</invoke>",
)

_CALL = re.compile(r'(?:<minimax:tool_call>\s*)?<invoke name="(.*?)">(.*?)</invoke>', re.DOTALL)
_ARGUMENT = re.compile(r'<parameter name="(.*?)">(.*?)</parameter>', re.DOTALL)


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    return read_tagged(text, _CALL, _ARGUMENT)


MINIMAX2 = ToolFormat(
    name="minimax2",
    describe=_TOOLS.describe,
    write=_TAGS.write,
    read=_read,
    jinja_tools=_TOOLS.jinja,
    jinja_calls=_TAGS.jinja,
)

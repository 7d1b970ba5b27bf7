"""GLM-4: tools as JSON schemas under headings, one call at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tkernel.errors import DataError
from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.format import (
    Tool,
    ToolFormat,
    bare,
    dump,
    json_or_none,
    parsed_arguments,
)


def _describe(tools: Sequence[Tool]) -> Text:
    text = Text(
        "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    )
    for tool in map(bare, tools):
        body = f"{tool['name']}\n\n{dump(tool, indent=4)}"
        text = text + "\n\n## " + Text.of_data(body) + "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    return text


def _write(calls: Sequence[ToolCall]) -> Text:
    if len(calls) != 1:
        raise DataError(f"the tool format glm4 writes one call in a message, not {len(calls)}")
    (call,) = calls
    return Text.of_data(call.name) + "\n" + Text.of_data(dump(parsed_arguments(call)))


def _read(text: str) -> tuple[str, list[ToolCall]] | None:
    name, _, arguments = text.partition("\n")
    value = json_or_none(arguments.strip())
    return None if not name or not isinstance(value, dict) else ("", [ToolCall(name, dump(value))])


GLM4 = ToolFormat(
    name="glm4",
    describe=_describe,
    write=_write,
    read=_read,
    jinja_tools="""\
{{- '你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，' }}
{{- '你的任务是针对用户的问题和要求提供适当的答复和支持。\\n\\n# 可用工具' }}
{%- for tool in tools %}
    {%- set tool = tool.function if tool.type == 'function' and tool.function is defined else tool %}
    {{- '\\n\\n## ' + tool.name + '\\n\\n' + tool | tojson(indent=4) }}
    {{- '\\n在调用上述函数时，请使用 Json 格式表示调用的参数。' }}
{%- endfor %}""",
    jinja_calls="""\
{%- for call in calls %}
    {{- call.name + '\\n' + (call.arguments if call.arguments is string else call.arguments | tojson) }}
{%- endfor %}""",
)

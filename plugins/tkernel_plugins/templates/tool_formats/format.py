"""What a tool format is, and what several of them need."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text

Tool = Mapping[str, Any]


@dataclass(frozen=True)
class ToolFormat:
    """One way to write tools and calls.

    `read` takes a reply without its thought and returns the text before the calls and the calls, or
    None if the reply calls nothing.
    """

    name: str
    describe: Callable[[Sequence[Tool]], Text]
    write: Callable[[Sequence[ToolCall]], Text]
    read: Callable[[str], tuple[str, list[ToolCall]] | None]
    jinja_tools: str
    jinja_calls: str
    without_tools: str = ""
    """What is written for a list of tools that is there and empty (`"tools": "[]"`)."""

    def __str__(self) -> str:
        return self.name


# A tool in OpenAI's wrapper, and the arguments of a call as JSON text, as Jinja expressions.
JINJA_WRAPPED = "(tool if tool.type == 'function' else {'type': 'function', 'function': tool})"
JINJA_ARGUMENTS = "(call.arguments if call.arguments is string else call.arguments | tojson)"
JINJA_BARE = "(tool.function if tool.type == 'function' and tool.function is defined else tool)"
# For formats that write arguments one by one: refuses JSON text, which Jinja cannot read.
JINJA_OBJECT = (
    "{{- raise_exception('arguments of calls must be objects') if call.arguments is not mapping else '' }}"
)
JINJA_VALUE = "(value if value is string else value | tojson)"


def dump(value: Any, indent: int | None = None) -> str:
    """JSON as these formats write it: `, ` and `: ` between items, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def parsed_arguments(call: ToolCall) -> Any:
    """The arguments of a call as a value.

    Raises:
        DataError: they are not JSON.
    """
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the arguments of the call to {call.name!r} are not JSON: {error}") from error


def object_arguments(call: ToolCall) -> Mapping[str, Any]:
    """The arguments of a call, for formats that write them one by one.

    Raises:
        DataError: they are not a JSON object.
    """
    arguments = parsed_arguments(call)
    if not isinstance(arguments, dict):
        raise DataError(f"the arguments of the call to {call.name!r} are not a JSON object: {call.arguments}")
    return arguments


def spelled(value: Any) -> Text:
    """The value of an argument in formats without quotes: a string as it is, anything else as JSON."""
    return Text.of_data(value if isinstance(value, str) else dump(value))


def unspelled(text: str) -> Any:
    """What `spelled` wrote. A string that is also JSON (`12`) cannot be told from the value."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def read_tagged(
    text: str, call: re.Pattern[str], argument: re.Pattern[str]
) -> tuple[str, list[ToolCall]] | None:
    """Calls between tags: the groups of `call` are a name and what holds the arguments, those of
    `argument` a key and a value."""
    matches = list(call.finditer(text))
    if not matches:
        return None
    calls = [
        ToolCall(name.strip(), dump({key: unspelled(value) for key, value in argument.findall(inside)}))
        for name, inside in (match.groups() for match in matches)
    ]
    return text[: matches[0].start()], calls


def check_tools(tools: Sequence[Any]) -> None:
    """Refuse what no format can describe.

    Raises:
        DataError: a tool without a name, or parameters that are no JSON schema of an object; the message
            names its position, counted from 0.
    """
    for position, tool in enumerate(tools):
        inner = bare(tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise DataError(f"tool {position} has no name: {str(tool)[:80]}")
        schema = inner.get("parameters") or {}
        properties = (schema.get("properties") or {}) if isinstance(schema, Mapping) else None
        known = isinstance(properties, Mapping) and all(isinstance(p, Mapping) for p in properties.values())
        if not known or not isinstance(schema.get("required") or [], list):
            raise DataError(
                f"the parameters of tool {position} ({inner['name']!r}) are no JSON schema of an object"
            )


def bare(tool: Tool) -> Tool:
    """A tool without OpenAI's wrapper."""
    return tool["function"] if tool.get("type") == "function" and "function" in tool else tool


def wrapped(tool: Tool) -> Tool:
    """A tool in OpenAI's wrapper."""
    return tool if tool.get("type") == "function" else {"type": "function", "function": tool}


def as_calls(value: Any, arguments: str) -> list[ToolCall] | None:
    """Calls from parsed JSON, one object or a list of them, with their arguments under the key `arguments`."""
    objects = value if isinstance(value, list) else [value]
    if not objects or not all(isinstance(o, dict) and "name" in o and arguments in o for o in objects):
        return None
    return [ToolCall(o["name"], dump(o[arguments])) for o in objects]


def json_or_none(text: str) -> Any:
    """`text` parsed as JSON, None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_from(text: str, start: int) -> tuple[Any, int] | None:
    """The JSON value that begins at `start` and where it ends; None if none begins there."""
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None

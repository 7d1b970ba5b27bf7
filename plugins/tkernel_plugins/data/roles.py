"""LLaMA-Factory's roles (user, assistant, function, observation) as canonical conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message, ToolCall

_TAGGED_CALLS = re.compile(
    r"<tool_call>(.*?)</tool_call>|<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", re.DOTALL
)


def from_llamafactory(
    messages: Sequence[Mapping[str, str]], system: str | None = None, tools: str | None = None
) -> Conversation:
    """The conversation that renders to the same text.

    Args:
        messages: dicts with `role` (user, assistant, function, observation) and `content`. The content
            of a function message is JSON, `{"name", "arguments"}` or a list of them, at its end, after a
            thought for instance, or between `<tool_call>` tags (LFM2's are understood too).
        system: the system prompt; empty is the same as none.
        tools: JSON text, a list of tools; empty is none, `"[]"` is a list without tools.

    Raises:
        DataError: an unknown role, or JSON that is broken or lacks a key.
    """
    converted = [Message("system", system)] if system else []
    for position, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role in ("user", "assistant"):
            converted.append(Message(role, content))
        elif role == "observation":
            converted.append(Message("tool", content))
        elif role == "function":
            said, calls = _split_calls(content, position)
            converted.append(Message("assistant", said, tool_calls=calls))
        else:
            raise DataError(f"message {position} has the unknown role {role!r}")
    return Conversation(
        messages=tuple(converted), tools=tuple(_tools(tools)), empty_tools=bool(tools) and not _tools(tools)
    )


def _split_calls(content: str, position: int) -> tuple[str, tuple[ToolCall, ...]]:
    """What was said before the calls, and the calls."""
    if tagged := _TAGGED_CALLS.search(content):
        said, text = content.replace(tagged[0], ""), tagged[1] or tagged[2]
    else:
        starts = (match.start() for match in re.finditer(r"[\[{]", content))
        start = next((start for start in starts if _is_json(content, start)), 0)
        said, text = content[:start].strip(), content[start:]
    try:
        parsed = json.loads(text)
        calls = parsed if isinstance(parsed, list) else [parsed]
        return said, tuple(
            ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in calls
        )
    except json.JSONDecodeError as error:
        raise DataError(f"message {position} should hold calls as JSON: {error}: {content!r}") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"message {position}: a call needs `name` and `arguments`: {content!r}") from error


def _is_json(text: str, start: int) -> bool:
    """Whether `text` from `start` on is one JSON value."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return False
    return not text[end:].strip()


def _tools(tools: str | None) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(tools) if tools else []
    except json.JSONDecodeError as error:
        raise DataError(f"the tools are not JSON: {error}: {tools!r}") from error
    return parsed if isinstance(parsed, list) else [parsed]

"""Conversations that the suite of templates renders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tkernel.types.conversation import Conversation, Message, ToolCall, message_to_dict

WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def talk(*messages: tuple[str, str], **fields: Any) -> Conversation:
    """A conversation of pairs `(role, content)`."""
    return Conversation(tuple(Message(role, content) for role, content in messages), **fields)


def calling(*arguments: dict[str, Any], said: str = "", reasoning: str | None = None) -> Message:
    """A reply that calls `get_weather` once for each of `arguments`."""
    calls = tuple(ToolCall("get_weather", json.dumps(a, ensure_ascii=False)) for a in arguments)
    return Message("assistant", said, tool_calls=calls, reasoning=reasoning)


ONE_TURN = talk(("user", "Who runs the inn?"), ("assistant", "The user 12 does."))
THREE_TURNS = talk(
    ("system", "You answer in one line."),
    ("user", "Hello there"),
    ("assistant", "Good morning, naïve 😀 friend!"),
    ("user", "Say 12 1212\n\nand then stop"),
    ("assistant", "12 1212\n\n  stopped"),
    ("user", "Thanks"),
    ("assistant", "You are welcome."),
)
TOOL_TURNS = Conversation(
    (
        Message("user", "How warm is it?"),
        calling({"city": "Zürich"}),
        Message("tool", "12 degrees"),
        Message("assistant", "12 degrees."),
    ),
    (WEATHER,),
)
REPLIES = (
    Message("assistant", "The user 12 does."),
    Message("assistant", "Ω \\ \"two\"\n\n{'lines'}: 12"),
    Message("assistant", "Four.", reasoning="Two and two."),
    calling({"city": "Paris"}),
    calling({"city": "台北 😀", "days": 3}),
    calling({"days": [1, 2.5, None, True], "near": {"sea": False}}),
    calling({}),
    calling({"city": "a"}, {"city": "b", "days": 0}),
    calling({"city": "Paris"}, reasoning="It has to be looked up."),
)
"""Replies that parse back, as far as the template has a place for them."""


def saying(conversation: Conversation, position: int, text: str) -> Conversation:
    """The conversation with other content in the message at `position`."""
    return with_message(conversation, position, content=text)


def with_message(conversation: Conversation, position: int, **changes: Any) -> Conversation:
    """The conversation with one message changed."""
    messages = list(conversation.messages)
    messages[position] = replace(messages[position], **changes)
    return conversation.replace(messages=tuple(messages))


def with_described_tool(conversation: Conversation, description: str) -> Conversation:
    """The conversation with another description of its tool."""
    tool = conversation.tools[0]
    function = {**tool["function"], "description": description}
    return conversation.replace(tools=({**tool, "function": function},))


def as_dicts(conversation: Conversation, parts: bool = False) -> list[dict[str, Any]]:
    """Messages as `apply_chat_template` takes them, arguments as values; `parts`: contents as lists of parts."""
    dicts: list[dict[str, Any]] = []
    for message in conversation.messages:
        made: dict[str, Any] = {"role": message.role, "content": message.content}
        if parts:
            made["content"] = [{"type": "text", "text": message.content}]
        if calls := message_to_dict(message)["tool_calls"]:
            for call in calls:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            made["tool_calls"] = calls
        dicts.append(made)
    return dicts

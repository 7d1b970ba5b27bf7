"""Conversations in the conventions of the ecosystem: OpenAI's messages, TRL's column names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant makes; `arguments` is JSON text, as in OpenAI's protocol."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One message. Media are placeholders in `content` (`<image>`), in the order of the media lists.

    `train` overrides what is supervised: None follows the run's settings, True or False decide for
    this message alone. `weight` scales the loss of its tokens. `expanded` are the character ranges
    `(start, end)` of `content` that a media processor wrote in place of a placeholder: special tokens
    are tokens there, while anywhere else in `content` they stay text.
    """

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    train: bool | None = None
    weight: float = 1.0
    expanded: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools that may be called, and references to media (path, URL or bytes; a video may be a
    tuple of its frames).

    `empty_tools` says that a list of tools was given and is empty (`"tools": "[]"`), which is not the
    same as none given: LLaMA-Factory's templates open a system block for it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    audios: tuple[Any, ...] = ()
    empty_tools: bool = False

    @property
    def system(self) -> str | None:
        """The content of a leading system message."""
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without a leading system message."""
        return self.messages[1:] if self.system is not None else self.messages

    def replace(self, **changes: Any) -> Conversation:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Conversation:
        """The conversation of a canonical row (`tools` is JSON text there)."""
        given = row.get("tools")
        tools = tuple(json.loads(given) if isinstance(given, str) and given else given or ())
        return cls(
            messages=tuple(message_from_dict(m) for m in row["messages"]),
            tools=tools,
            empty_tools=bool(given) and not tools,
            images=tuple(row.get("images") or ()),
            videos=tuple(row.get("videos") or ()),
            audios=tuple(row.get("audios") or ()),
        )


def message_from_dict(message: Mapping[str, Any]) -> Message:
    """A `Message` from a canonical row's dict; absent keys and None take the defaults."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(function["name"], text))
    weight = message.get("weight")
    return Message(
        role=message["role"],
        content=message.get("content") or "",
        tool_calls=tuple(calls),
        reasoning=message.get("reasoning"),
        train=message.get("train"),
        weight=1.0 if weight is None else float(weight),
    )


def message_to_dict(message: Message) -> dict[str, Any]:
    """The canonical row's dict of a message: every key present, so that Arrow sees one type."""
    return {
        "role": message.role,
        "content": message.content,
        "tool_calls": [
            {"type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ],
        "reasoning": message.reasoning,
        "train": message.train,
        "weight": message.weight,
    }

"""Messages of a request as a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.protocol import ChatMessage, ImagePart, Tool

IMAGE = "<image>"
ROLES = {"developer": "system", "function": "tool"}


def conversation_of(
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
    load_image: Callable[[str], Any],
    *,
    scored: bool = False,
) -> Conversation:
    """The conversation; `load_image` makes a picture's bytes of its URL.

    It waits for a reply, or, where it is to be `scored`, ends with one.

    Raises:
        ApiError: it ends with another role, or has content where there can be none.
    """
    images: list[Any] = []
    made = [_message(message, images, load_image, f"messages.{n}") for n, message in enumerate(messages)]
    if scored and made[-1].role != "assistant":
        raise ApiError(400, "what is scored ends with a reply", param=f"messages.{len(made) - 1}.role")
    if not scored and made[-1].role not in ("user", "tool"):
        raise ApiError(
            400,
            f"the last message has the role {messages[-1].role!r}; a reply needs one of a user or tool before it",
            param=f"messages.{len(made) - 1}.role",
        )
    described = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    return Conversation(tuple(made), described, images=tuple(images))


def has_pictures(messages: Sequence[ChatMessage]) -> bool:
    """Whether one of the messages has a picture."""
    contents = [message.content for message in messages if isinstance(message.content, list)]
    return any(isinstance(part, ImagePart) for content in contents for part in content)


def _message(message: ChatMessage, images: list[Any], load: Callable[[str], Any], place: str) -> Message:
    text = ""
    for part in message.content if isinstance(message.content, list) else ():
        if isinstance(part, ImagePart):
            text += IMAGE
            images.append(load(part.image_url.url))
        else:
            text += part.text
    if isinstance(message.content, str):
        text = message.content
    calls = tuple(ToolCall(c.function.name, c.function.arguments) for c in message.tool_calls or ())
    if calls and message.role != "assistant":
        raise ApiError(400, "only the assistant calls tools", param=f"{place}.tool_calls")
    if message.reasoning_content and message.role != "assistant":
        raise ApiError(400, "only the assistant has thoughts", param=f"{place}.reasoning_content")
    role = ROLES.get(message.role, message.role)
    return Message(role, text, tool_calls=calls, reasoning=message.reasoning_content)

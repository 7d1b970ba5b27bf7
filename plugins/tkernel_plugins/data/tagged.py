"""Rows that hold a list of messages, each with its role: the formats `sharegpt` and `openai`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel_plugins.data.formats import (
    BadRow,
    Row,
    Sample,
    converted,
    frames_given,
    json_text,
    kind_of,
    parse_json,
)

SHAREGPT_TAGS: Mapping[str, str] = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OPENAI_TAGS: Mapping[str, str] = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "tool_call",
    "system_tag": "system",
}
NEEDS: Mapping[str, Sequence[Sequence[str]]] = {
    "supervised": [("messages",)],
    "preference": [("messages", "chosen", "rejected")],
    "feedback": [("messages", "kto_tag")],
    "prompt": [("messages",)],
}
"""The columns that each kind of rows takes."""

_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
_ASKS, _ANSWERS = ("user", "observation"), ("assistant", "function")


@dataclass(slots=True)
class _Read:
    """A message in LLaMA-Factory's roles, with what those roles cannot say."""

    role: str
    content: str
    tag: str
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    train: bool | None = None
    weight: float = 1.0


@dataclass(slots=True)
class _Media:
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)


def sample_of(row: Row, *, results_may_follow: bool, empty_replies: bool = False) -> Sample:
    """The sample of one row; raises `BadRow`.

    A leading system message replaces the column `system`. The others alternate between asking
    (`user`, `observation`) and answering (`assistant`, `function`); with `results_may_follow`, as
    in OpenAI's protocol, several results of tools may follow each other. The last answer is the
    reply; in a preference row the messages end with a question, and `chosen` and `rejected` are one
    answer each. A reply that says nothing teaches nothing and is refused, unless `empty_replies`.
    """
    if row.kind == "text":
        raise BadRow("a conversation is not a text")
    items = row.items("messages", row.need("messages"))
    tags = _tags(row, items)
    media = _Media()
    messages = [
        _read(tags, item, number, media, may_be_empty=empty_replies)
        for number, item in enumerate(items, start=1)
    ]
    system = row.text("system")
    first = 1
    if messages and messages[0].role == "system":
        system, messages, first = messages[0].content, messages[1:], 2
    _check_order(messages, tags, results_may_follow or tags is OPENAI_TAGS, first)
    answers = _answers(row, tags, messages, media)
    prompt = _conversation(messages, system, row.tools())
    return Sample(
        prompt.replace(images=tuple(media.images), videos=tuple(media.videos), audios=tuple(media.audios)),
        replies=tuple(_message(answer) for answer in answers),
        label=row.liked() if row.kind == "feedback" else None,
    )


def _answers(row: Row, tags: Mapping[str, str], messages: list[_Read], media: _Media) -> list[_Read]:
    """The replies of a row; those at the end of `messages` are taken out."""
    if not messages:
        raise BadRow("no messages")
    ends_with_answer = messages[-1].role in _ANSWERS
    if row.kind == "prompt":
        return [messages.pop()] if ends_with_answer else []
    if row.kind == "preference":
        if ends_with_answer:
            raise BadRow("the conversation must end with a question, which `chosen` and `rejected` answer")
        answers = []
        for name in ("chosen", "rejected"):
            value = row.need(name)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            answer = _read(tags, value, 1, media, row.columns[name])
            if answer.role not in _ANSWERS:
                raise BadRow(f"`{row.columns[name]}` is not an answer", f"its role is {answer.tag!r}")
            answers.append(answer)
        return answers
    if not ends_with_answer:
        raise BadRow("no reply: the conversation ends with a question")
    return [messages.pop()]


def _tags(row: Row, items: list[Any]) -> Mapping[str, str]:
    """The tags of this row: those declared, else the ones that its first message uses."""
    if row.tags is not SHAREGPT_TAGS and row.tags is not OPENAI_TAGS:
        for name in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
            if name not in row.tags:
                raise BadRow(f"`tags` of the dataset does not name the `{name}`")
        return row.tags
    first = items[0] if items and isinstance(items[0], dict) else {}
    for tags in (row.tags, SHAREGPT_TAGS, OPENAI_TAGS):
        if tags["role_tag"] in first and tags["content_tag"] in first:
            return tags
    return row.tags


def _read(
    tags: Mapping[str, str],
    item: Any,
    number: int,
    media: _Media,
    where: str | None = None,
    *,
    may_be_empty: bool = False,
) -> _Read:
    """One message, checked."""
    name = f"message {number}" if where is None else f"`{where}`"
    if not isinstance(item, dict):
        raise BadRow("a message must be an object", f"{name} is {kind_of(item)}")
    tag = item.get(tags["role_tag"])
    if tag is None:
        raise BadRow(
            f"a message without `{tags['role_tag']}`", f"{name} has {', '.join(map(str, item)) or 'no keys'}"
        )
    known = {tags[key]: role for key, role in _ROLES.items() if key in tags}
    if not isinstance(tag, str) or tag not in known:
        near = did_you_mean(tag, known) if isinstance(tag, str) else None
        expected = near or f"expected {', '.join(known)}"
        raise BadRow("unknown role", f"{str(tag)[:80]!r} in {name}; {expected}")
    role = known[tag]
    calls = _calls(item.get("tool_calls"), name) if role in _ANSWERS else ()
    content = _content(item, tags["content_tag"], name, media, may_be_missing=bool(calls))
    if role in _ANSWERS and not content.strip() and not calls and not may_be_empty:
        raise BadRow("an empty reply", f"{name} says nothing")
    if calls:
        role = "assistant"
    reasoning = next(
        (item[key] for key in ("reasoning", "reasoning_content", "thinking") if item.get(key)), None
    )
    if reasoning is not None and not isinstance(reasoning, str):
        raise BadRow("reasoning must be text", f"in {name} it is {kind_of(reasoning)}")
    train, weight = _learning(item, name)
    return _Read(role, content, tag, calls, reasoning, train, weight)


def _content(item: Mapping[str, Any], key: str, name: str, media: _Media, *, may_be_missing: bool) -> str:
    """The content as text; parts become text and placeholders, their media go to `media`."""
    value = item.get(key)
    if value is None:
        if may_be_missing:
            return ""
        raise BadRow(
            f"a message without `{key}`" if key not in item else f"`{key}` of a message is null", name
        )
    if isinstance(value, list):
        return "".join(_part(part, name, media) for part in value)
    if not isinstance(value, str):
        raise BadRow(f"`{key}` of a message must be text", f"in {name} it is {kind_of(value)}")
    return value


def _part(part: Any, name: str, media: _Media) -> str:
    """Text of one content part: its text, or a placeholder."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    for medium, listed in (("image", media.images), ("video", media.videos), ("audio", media.audios)):
        if kind in (medium, f"{medium}_url", f"input_{medium}"):
            value = next((part[k] for k in (kind, medium, "url", "path") if part.get(k) is not None), None)
            if isinstance(value, dict):
                value = next(
                    (value[k] for k in ("url", "path", "bytes", "data") if value.get(k) is not None), None
                )
            if value is not None:
                frames = medium == "video" and isinstance(value, list)
                listed.append(_frames(value, name) if frames else _reference(value, name))
            return f"<{medium}>"
    raise BadRow("a content part that is not known", f"{str(kind)[:80]!r} in {name}")


def _frames(value: list[Any], name: str) -> tuple[str, ...]:
    frames_given(value, name)
    return tuple(value)


def _reference(value: Any, name: str) -> Any:
    """A path, a URL or bytes; a data URL is decoded."""
    if not isinstance(value, (str, bytes)):
        raise BadRow("a medium must be a path, a URL or bytes", f"in {name} it is {kind_of(value)}")
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return base64.b64decode(value.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRow("a data URL that is not base64", f"in {name}: {error}") from None
    return value


def _calls(value: Any, name: str) -> tuple[ToolCall, ...]:
    """The tool calls of a message in OpenAI's form; arguments are kept as the text they are."""
    if not value:
        return ()
    calls = []
    for call in value if isinstance(value, list) else [None]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("a tool call without a function name", name)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            if not isinstance(parse_json(arguments, "arguments of a tool call"), dict):
                raise BadRow("arguments of a tool call must be an object", name)
            calls.append(ToolCall(function["name"], arguments))
        elif arguments is None or isinstance(arguments, dict):
            calls.append(ToolCall(function["name"], json_text(arguments or {}, "arguments of a tool call")))
        else:
            raise BadRow(
                "arguments of a tool call must be an object", f"in {name} it is {kind_of(arguments)}"
            )
    return tuple(calls)


def _learning(item: Mapping[str, Any], name: str) -> tuple[bool | None, float]:
    """`train` and `weight` of a message; a weight of 0 means that it is not learned."""
    train, weight = item.get("train"), item.get("weight")
    if train is not None and not isinstance(train, bool):
        raise BadRow("`train` of a message must be true or false", f"in {name} it is {kind_of(train)}")
    if weight is None:
        return train, 1.0
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1e6:
        raise BadRow(
            "`weight` of a message must be a number from 0 to 1e6", f"in {name} it is {str(weight)[:80]}"
        )
    return (False, 1.0) if weight == 0 else (train, float(weight))


def _check_order(
    messages: list[_Read], tags: Mapping[str, str], results_may_follow: bool, first: int
) -> None:
    """Asking and answering alternate, beginning with a question; raises `BadRow` at the first break."""
    expected = _ASKS
    for index, message in enumerate(messages):
        follows = (
            results_may_follow and index > 0 and message.role == messages[index - 1].role == "observation"
        )
        if not follows and message.role not in expected:
            wanted = [tags[key] for key, role in _ROLES.items() if role in expected and key in tags]
            raise BadRow(
                "wrong order of roles",
                f"message {first + index} is from {message.tag!r}, expected {' or '.join(map(repr, wanted))}",
            )
        if not follows:
            expected = _ANSWERS if expected is _ASKS else _ASKS


def _conversation(messages: list[_Read], system: str, tools: str) -> Conversation:
    conversation = converted(
        [{"role": message.role, "content": message.content} for message in messages], system, tools
    )
    first = len(conversation.messages) - len(messages)
    rest = zip(conversation.messages[first:], messages, strict=True)
    return conversation.replace(
        messages=(*conversation.messages[:first], *(_with_extras(new, read) for new, read in rest))
    )


def _message(read: _Read) -> Message:
    plain = {"role": read.role, "content": read.content}
    return _with_extras(converted([plain]).messages[-1], read)


def _with_extras(message: Message, read: _Read) -> Message:
    if not (read.calls or read.reasoning or read.train is not None or read.weight != 1.0):
        return message
    return Message(
        role=message.role,
        content=message.content,
        tool_calls=read.calls or message.tool_calls,
        reasoning=read.reasoning or message.reasoning,
        train=read.train,
        weight=read.weight,
    )

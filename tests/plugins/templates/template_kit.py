"""Conversations for tests of templates, and the templates by name."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import Any

from hypothesis import strategies as st

from tkernel.types.conversation import Conversation, Message, ToolCall

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": 'The weather <of> a city & its "surroundings" 台风',
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "City name"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer"}, "description": "Days ahead"},
        },
        "required": ["city"],
    },
}
NEWS: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "news",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {}},
    },
}

PLAIN = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029"), min_size=1, max_size=30
)
"""Any text: transformers' Jinja reads `\\r` in a template, not in a content, as a line break."""

WORDS = st.lists(
    st.sampled_from(["Ω", "two words", "line\nbreak", "12", "it's", "{{x}}", "\\n", "  "]), min_size=1
)
TEXTS = WORDS.map(" ".join)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["city", "n"]),
    st.one_of(st.integers(), TEXTS, st.none(), st.lists(st.booleans(), max_size=2)),
)


@st.composite
def conversations(
    draw: st.DrawFn,
    *,
    tools: bool,
    thoughts: bool,
    parallel: bool = True,
    before_calls: bool = True,
    texts: st.SearchStrategy[str] = TEXTS,
) -> Conversation:
    """Conversations that end with a reply, of one to three turns, whose contents are `texts`; `parallel`: with
    several calls at once, `before_calls`: with thoughts before them."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(texts)))
        if tools and draw(st.booleans()):
            count = draw(st.integers(1, 2)) if parallel else 1
            calls = tuple(ToolCall("get_weather", dump(draw(ARGUMENTS))) for _ in range(count))
            thinks = thoughts and before_calls and draw(st.booleans())
            reasoning = draw(texts.map(str.strip)) if thinks else None
            messages.append(Message("assistant", tool_calls=calls, reasoning=reasoning or None))
            messages += [Message("tool", draw(texts)) for _ in range(count)]
        reasoning = draw(texts.map(str.strip)) if thoughts and draw(st.booleans()) else None
        messages.append(Message("assistant", draw(texts), reasoning=reasoning or None))
    return Conversation(tuple(messages), tools=(WEATHER, NEWS) if tools and draw(st.booleans()) else ())


def dump(value: Any) -> str:
    """JSON as templates write it."""
    return json.dumps(value, ensure_ascii=False)


def as_dicts(conversation: Conversation) -> list[dict[str, Any]]:
    """Messages as `apply_chat_template` takes them, arguments as values."""
    dicts: list[dict[str, Any]] = []
    for message in conversation.messages:
        made: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            made["reasoning_content"] = message.reasoning
        if message.tool_calls:
            made["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ]
        dicts.append(made)
    return dicts


def built_in(name: str) -> Any:
    """The template plugin called `name`."""
    (entry,) = {e.value: e for e in entry_points(group="tkernel.template", name=name)}.values()
    return entry.load()

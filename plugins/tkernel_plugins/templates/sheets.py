"""Conversations as chat templates take them, with marks in place of what the data says.

A chat template is rendered with marks; where a mark comes out again is where its text belongs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel_plugins.templates.text import Text

MARK_START = "\ue000"  # private characters: no template's own text has them, and trimming leaves them alone
_MARK = re.compile(f"{MARK_START}(\\d+)\ue001")
_THOUGHT = re.compile(r"\A\s*<think>\n?(.*?)\n?</think>\n*", re.DOTALL)
TOOLS = -1


@dataclass(frozen=True)
class Value:
    """What a mark stands for. `message` is its position, or `TOOLS`; `part` where it is said:
    `content`, `thought`, `name` (of a call or a tool), or `inner` (another string in arguments or a tool)."""

    text: Text
    message: int
    part: str


@dataclass
class Sheet:
    """Messages and tools as the template takes them; `values[n]` is what mark `n` in them stands for."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[Any] | None = None
    values: list[Value] = field(default_factory=list)

    def mark(self, text: str, message: int, part: str, own: tuple[tuple[int, int], ...] = ()) -> str:
        """`text` with a mark in place of all but the white space around it, which templates may trim."""
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        end = start + len(core)
        value = Text.of_data(text, own).part(start, end)
        if part == "inner":
            value = Text.of_data(json.dumps(core, ensure_ascii=False)[1:-1])
        self.values.append(Value(value, message, part))
        return f"{text[:start]}{mark_of(len(self.values) - 1)}{text[end:]}"


@dataclass(frozen=True)
class SheetMaker:
    """How the template wants conversations.

    `special` matches special tokens: strings inside tools and arguments are marked where they spell one.
    The others are those of `OwnTemplate`.
    """

    special: re.Pattern[str]
    reasoning_key: str | None
    parts: bool
    thinking: bool | None
    text_arguments: bool

    def plain(self, conversation: Conversation) -> Sheet:
        """The conversation itself, without marks."""
        return self._make(conversation, lambda text, *_: text, separate=False)

    def marked(self, conversation: Conversation) -> Sheet:
        """The same with marks, thoughts taken out of contents."""
        sheet = Sheet()

        def mark(text: str, message: int, part: str, own: tuple[tuple[int, int], ...] = ()) -> str:
            if part == "inner" and not self.special.search(text):
                return text
            return sheet.mark(text, message, part, own)

        made = self._make(conversation, mark, separate=True)
        sheet.messages, sheet.tools = made.messages, made.tools
        return sheet

    def _make(self, conversation: Conversation, mark: Callable[..., str], separate: bool) -> Sheet:
        messages: list[dict[str, Any]] = []
        calls = answered = 0
        for position, message in enumerate(conversation.messages):
            thought, content = self._said(message, separate)
            made: dict[str, Any] = {"role": message.role}
            marked_thought = mark(thought, position, "thought") if thought else ""
            own = message.expanded if content == message.content else ()
            text = mark(content, position, "content", own)
            if thought and self.reasoning_key:
                made[self.reasoning_key] = marked_thought
            elif thought:
                text = f"<think>\n{marked_thought}\n</think>\n\n{text}"
            made["content"] = [{"type": "text", "text": text}] if self.parts else text
            if message.tool_calls:
                arguments = [_map_strings(_parsed(c.arguments), mark, position) for c in message.tool_calls]
                if self.text_arguments:
                    arguments = [json.dumps(value, ensure_ascii=False) for value in arguments]
                made["tool_calls"] = [
                    # Some templates insist on ids, of nine characters.
                    {
                        "id": f"call{calls + number:05d}",
                        "type": "function",
                        "function": {"name": mark(call.name, position, "name"), "arguments": value},
                    }
                    for number, (call, value) in enumerate(zip(message.tool_calls, arguments, strict=True))
                ]
                calls += len(message.tool_calls)
            if message.role == "tool" and answered < calls:
                made["tool_call_id"] = f"call{answered:05d}"
                answered += 1
            messages.append(made)
        tools = [_tool(tool, mark) for tool in conversation.tools]
        return Sheet(messages, tools or None)

    def _said(self, message: Message, separate: bool) -> tuple[str, str]:
        """Thought and content of a message; `separate`: a thought at the start of the content taken out."""
        if message.role != "assistant":
            return "", message.content
        found = _THOUGHT.match(message.content)
        inner, rest = (found[1], message.content[found.end() :]) if found else ("", message.content)
        if self.thinking is False:
            return "", rest
        if separate and inner and not message.reasoning and not message.expanded:
            return inner, rest
        return message.reasoning or "", message.content


def mark_of(number: int) -> str:
    """Mark `number` as text."""
    return f"{MARK_START}{number}\ue001"


def fill(text: str, values: Sequence[Value]) -> Text:
    """A marked text with the values in place of the marks: they are typed, the rest is the template's own."""
    filled, position = Text(), 0
    for mark in _MARK.finditer(text):
        filled = filled + text[position : mark.start()] + values[int(mark[1])].text
        position = mark.end()
    return filled + text[position:]


def shifted(text: str, values: Sequence[Value], positions: Sequence[int]) -> list[int]:
    """Positions between the marks of a marked text -> positions in the filled one."""
    moves = [(m.end(), len(values[int(m[1])].text.text) - len(m[0])) for m in _MARK.finditer(text)]
    return [position + sum(move for end, move in moves if end <= position) for position in positions]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except json.JSONDecodeError as error:
        raise DataError(f"the arguments of a call are not JSON: {error}: {arguments!r}") from error


def _tool(tool: Mapping[str, Any], mark: Callable[..., str]) -> dict[str, Any]:
    """A tool in OpenAI's wrapper, which chat templates want, its name marked too."""
    inner = tool.get("function", tool)
    around = {} if inner is tool else {key: value for key, value in tool.items() if key != "function"}
    made = _map_strings(inner, mark, TOOLS)
    if isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
        made["name"] = mark(inner["name"], TOOLS, "name")
    return {"type": "function", **_map_strings(around, mark, TOOLS), "function": made}


def _map_strings(value: Any, mark: Callable[..., str], message: int) -> Any:
    """JSON with `mark` applied to every string that is not a key."""
    if isinstance(value, str):
        return mark(value, message, "inner")
    if isinstance(value, Mapping):
        return {key: _map_strings(item, mark, message) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, mark, message) for item in value]
    return value

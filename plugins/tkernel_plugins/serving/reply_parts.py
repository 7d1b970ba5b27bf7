"""A reply taken apart while it streams: thought, content and tool calls, as the template writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.rendering import Renderer

_SAID, _THOUGHT, _NAME = "c7f3a", "t91bd", "f42e8"
"""Contents of the conversations that a template is tried with."""


@dataclass(frozen=True)
class Marks:
    """What a template writes around thoughts and before calls; None where it writes neither."""

    thought: tuple[str, str] | None = None
    """Before and after a thought. Nothing before it: the prompt has opened it already."""
    call: str | None = None
    lead: str = ""
    """What may stand before a thought, content or call, and is no part of what is said: a space, or a token that begins a sequence."""

    @classmethod
    def of(cls, renderer: Renderer) -> Marks:
        """The marks of a template, found by rendering a thought and a call."""
        marks = cls()
        thinking = _reply(renderer, Message("assistant", _SAID, reasoning=_THOUGHT))
        if _THOUGHT in thinking and _SAID in thinking:
            before, _, rest = thinking.partition(_THOUGHT)
            after = rest.partition(_SAID)[0]
            if after.strip():
                marks = replace(marks, thought=(before.strip(), after.strip()))
        calling = _reply(renderer, Message("assistant", "", tool_calls=(ToolCall(_NAME, '{"a": 1}'),)))
        if _NAME in calling:
            # Before a call stands what stands before any reply, an empty thought for instance.
            before = _reply(renderer, Message("assistant", _SAID)).partition(_SAID)[0]
            written = calling.partition(_NAME)[0].removeprefix(before).lstrip()
            begin = getattr(getattr(renderer, "tokenizer", None), "bos_token", None) or ""
            lead = begin if begin and written.startswith(begin) else before if before.isspace() else ""
            written = written.removeprefix(lead).lstrip()
            marks = replace(marks, lead=lead)
            mark = re.match(r"<[^>\s]+>?|\[[A-Z_]+\]|\w+:?|\S", written)
            marks = replace(marks, call=mark[0] if mark else None)
        return marks


def _reply(renderer: Renderer, message: Message) -> str:
    """The text of a reply, as the template writes it; empty if it cannot."""
    tool = {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "a",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
    conversation = Conversation((Message("user", "a"), message), (tool,) if message.tool_calls else ())
    try:
        turns = renderer.turns(conversation)
    except DataError:
        return ""
    return "".join(segment.text for segment in turns[-1].reply)


class ReplyParts:
    """Feed it text; it gives messages that hold what is new, in `reasoning`, `content` or `tool_calls`.

    What may be the beginning of a mark is held back; calls come whole, at the end.
    """

    def __init__(self, renderer: Renderer, marks: Marks, tools: bool) -> None:
        self.renderer = renderer
        self.thought = marks.thought
        self.call = marks.call if tools else None
        self.tools = tools
        self.content = ""
        self.calls = 0
        self._held = ""
        self._lead = self._lead_of_content = marks.lead
        self._state = "content" if marks.thought is None else "start" if marks.thought[0] else "thought"
        self._fresh = (
            self._state == "thought"
        )  # where a thought or content begins, line breaks are the template's

    def feed(self, text: str) -> Iterator[Message]:
        """What is new for sure after `text`."""
        self._held += text
        yield from self._read(final=False)

    def finish(self) -> Iterator[Message]:
        """What was held back, and the calls."""
        yield from self._read(final=True)
        if not self.tools:
            return
        # Calls stand in what was held back; where the model writes them in other words, in the whole.
        for text in dict.fromkeys((self._held, self.content + self._held)):
            message = self.renderer.parse_reply(text) if text.strip() else Message("assistant")
            if message.tool_calls:
                said = message.content if text is self._held else ""
                if said.strip():
                    yield from self._give(said)
                self.calls = len(message.tool_calls)
                yield Message("assistant", tool_calls=message.tool_calls)
                return
        if self._held:
            yield from self._give(self._held)

    def _read(self, final: bool) -> Iterator[Message]:
        if not self._led(final):
            return
        if self._state == "start":
            self._start(final)
        if self._state == "thought":
            yield from self._think(final)
        if self._state == "content" and self._led(final):
            yield from self._say(final)

    def _led(self, final: bool) -> bool:
        """Drop the lead; whether it is known if there is one."""
        if self._lead and self._held.startswith(self._lead):
            self._held, self._lead, self._fresh = self._held[len(self._lead) :], "", True
        elif final or not self._lead.startswith(self._held):
            self._lead = ""
        return not self._lead

    def _start(self, final: bool) -> None:
        assert self.thought is not None
        opening, text = self.thought[0], self._held.lstrip()
        if text.startswith(opening):
            self._held, self._state, self._fresh = text[len(opening) :], "thought", True
        elif final or not opening.startswith(text):
            self._state = "content"

    def _think(self, final: bool) -> Iterator[Message]:
        assert self.thought is not None
        closing = self.thought[1]
        if self._fresh:
            self._held = self._held.lstrip("\n")
            self._fresh = not self._held
        text, found, rest = self._held.partition(closing)
        if found:
            self._held, self._state, self._fresh = rest, "content", True
            self._lead = self._lead_of_content
            text = text.rstrip("\n")
        elif final:
            self._held = ""
        else:
            keep = len(text) - _overlap(text, closing)
            text = text[:keep].rstrip("\n")
            self._held = self._held[len(text) :]
        if text:
            yield Message("assistant", reasoning=text)

    def _say(self, final: bool) -> Iterator[Message]:
        if self._fresh:
            self._held = self._held.lstrip("\n")
            self._fresh = not self._held and not final
        text, found, _ = self._held.partition(self.call) if self.call else (self._held, "", "")
        if found:
            self._state = "calls"
        elif not final and self.call:
            text = text[: len(text) - _overlap(text, self.call)]
        self._held = self._held[len(text) :]
        yield from self._give(text)

    def _give(self, text: str) -> Iterator[Message]:
        if text:
            self.content += text
            yield Message("assistant", text)


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return max((n for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)


def call_dict(call: ToolCall, number: int, name: str) -> dict[str, Any]:
    """A call as OpenAI's protocol writes it; its id is made of the reply's."""
    arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
    return {
        "id": f"call_{name}_{number}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }

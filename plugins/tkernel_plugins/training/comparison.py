"""Whether a template writes what a model's own chat template writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.rendering import Renderer


@dataclass(frozen=True)
class Difference:
    """The first place where the two texts of a conversation differ.

    `position` counts characters; `ours` and `theirs` are whole texts, None where that template refuses the
    conversation.
    """

    conversation: str
    position: int
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        if self.theirs is None:
            return f"the model's chat template refuses {self.conversation}"
        if self.ours is None:
            return f"the template refuses {self.conversation}, the model's does not"
        ours, theirs = map(repr, self.excerpts())
        start = max(self.position - 20, 0)
        return (
            f"{self.conversation}, from character {start}:\n  the template  {ours}\n  the model's   {theirs}"
        )

    def excerpts(self, before: int = 20, after: int = 40) -> tuple[str, str]:
        """Both texts around the position; of a template that refuses, nothing."""
        window = slice(max(self.position - before, 0), self.position + after)
        return (self.ours or "")[window], (self.theirs or "")[window]


_QUESTION = Message("user", "What is the capital of France?")
_REPLY = Message("assistant", "Paris.")
_THOUGHT = Message("assistant", "Paris.", reasoning="France is a country.")
_CALL = Message("assistant", tool_calls=(ToolCall("look_up", '{"word": "France"}'),))
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
PLAIN: Mapping[str, Conversation] = {
    "a question": Conversation((_QUESTION,)),
    "a question with a system prompt": Conversation((Message("system", "Answer in one word."), _QUESTION)),
    "a question and its reply": Conversation((_QUESTION, _REPLY)),
    "a second question": Conversation((_QUESTION, _REPLY, Message("user", "And of Italy?"))),
}
THOUGHTS: Mapping[str, Conversation] = {
    "a reply with a thought": Conversation((_QUESTION, _THOUGHT)),
    "a question after a thought": Conversation((_QUESTION, _THOUGHT, Message("user", "And of Italy?"))),
}
TOOLS: Mapping[str, Conversation] = {
    "a question with a tool": Conversation((_QUESTION,), (_TOOL,)),
    "a call": Conversation((_QUESTION, _CALL)),
    "the result of a call": Conversation((_QUESTION, _CALL, Message("tool", "A country."))),
}
"""Shapes of conversations: what each shows -> the conversation. Those that end with a question or a result are
compared as prompts, the others whole."""


def differences(
    renderer: Renderer, tokenizer: Any, shapes: Mapping[str, Conversation], jinja: str | None = None
) -> Iterator[tuple[str, Difference | None]]:
    """Each shape with the first difference between `renderer` and a chat template, None if they agree.

    Args:
        jinja: the chat template; None: the one of `tokenizer`.
    """
    for name, conversation in shapes.items():
        ours, theirs = _ours(renderer, tokenizer, conversation), _theirs(tokenizer, conversation, jinja)
        if ours == theirs:
            yield name, None
            continue
        pairs = zip(ours or "", theirs or "", strict=False)
        shared = min(len(ours or ""), len(theirs or ""))
        position = next((i for i, (a, b) in enumerate(pairs) if a != b), shared)
        yield name, Difference(name, position, ours, theirs)


def first_difference(
    renderer: Renderer, tokenizer: Any, shapes: Mapping[str, Conversation] = PLAIN
) -> Difference | None:
    """The first difference between `renderer` and the chat template of `tokenizer` in any of `shapes`.

    None if they agree, or if the tokenizer has no chat template.
    """
    if not tokenizer.chat_template or renderer.jinja() == tokenizer.chat_template:
        return None
    found = (difference for _, difference in differences(renderer, tokenizer, shapes))
    return next(filter(None, found), None)


def shapes_in(rows: Sequence[Mapping[str, Any]]) -> dict[str, Conversation]:
    """The shapes that are worth comparing where conversations are like `rows`, canonical ones."""
    messages = [message for row in rows for message in row.get("messages") or ()]
    thoughts = any(m.get("reasoning") or "</think>" in (m.get("content") or "") for m in messages)
    tools = any(row.get("tools") for row in rows) or any(m.get("tool_calls") for m in messages)
    return {**PLAIN, **(THOUGHTS if thoughts else {}), **(TOOLS if tools else {})}


def _ours(renderer: Renderer, tokenizer: Any, conversation: Conversation) -> str | None:
    try:
        if conversation.messages[-1].role == "assistant":
            return renderer.text(conversation)
        ids = renderer.prompt_ids(conversation)
    except DataError:
        return None
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _theirs(tokenizer: Any, conversation: Conversation, jinja: str | None) -> str | None:
    messages = [_as_dict(message) for message in conversation.messages]
    waiting = messages[-1]["role"] != "assistant"
    tools = list(conversation.tools) or None
    words = {"tools": tools, "chat_template": jinja, "tokenize": False, "add_generation_prompt": waiting}
    try:
        text: str = tokenizer.apply_chat_template(messages, **words)
    except Exception:  # a chat template is a program, and refuses by whatever it raises
        return None
    return text


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates take it; they look for a thought under different keys."""
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        made |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.reasoning)
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": f"call{number:05d}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    if message.role == "tool":
        made["tool_call_id"] = "call00000"
    return made

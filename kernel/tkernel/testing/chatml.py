"""A renderer of the suites' own, so that a stage or an engine is tested without a template plugin."""

from __future__ import annotations

from typing import Any

from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Segment, Turn

START, END = Segment("<|im_start|>", special=True), Segment("<|im_end|>", special=True)


def chatml_renderer(tokenizer: Any) -> SegmentRenderer:
    """ChatML over the tiny tokenizer: `<|im_start|>role`, the text, `<|im_end|>`."""
    return SegmentRenderer("contract", tokenizer, _turns_of, stop_words=("<|im_end|>",))


def _said(role: str, text: str) -> tuple[Segment, ...]:
    return (START, Segment(f"{role}\n"), Segment(text, role, typed=((0, len(text)),)), END)


def _turns_of(conversation: Conversation) -> list[Turn]:
    turns: list[Turn] = []
    for prompts, reply in exchanges(conversation):
        prompt = [segment for message in prompts for segment in _said(message.role, message.content)]
        if not turns and conversation.system is not None:
            prompt = [*_said("system", conversation.system), *prompt]
        start, role, text, end = _said("assistant", reply.content)
        turns.append(Turn((*prompt, start, role), (text, end), reply.train, reply.weight))
    return turns

"""Whole replies are put together from the pieces of a stream."""

from __future__ import annotations

from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Delta, Prompt, Reply, collect


def called(text: str) -> Message:
    """A parser that takes every reply for a call."""
    return Message("assistant", f"call {text}")


def test_pieces_of_many_replies_are_sorted_and_joined() -> None:
    asked = [Conversation((Message("user", "a"),)), Conversation((Message("user", "b"),))]
    deltas = [
        Delta(3, "y", (4,), "stop", prompt_tokens=7),
        Delta(0, "h", (1,)),
        Delta(0, "i", (2,), "stop", prompt_tokens=5),
    ]
    first, *others, last = collect(deltas, asked, 2, called)
    assert first == Reply("hi", (1, 2), "stop", Message("assistant", "call hi"), (), 5)
    assert last == Reply("y", (4,), "stop", Message("assistant", "call y"), (), 7)
    assert {(reply.text, reply.finish_reason) for reply in others} == {("", "length")}


def test_what_follows_a_raw_prompt_is_text_whatever_else_is_asked() -> None:
    asked = [Prompt("once"), Conversation((Message("user", "b"),))]
    raw, parsed = collect([Delta(0, "<call>"), Delta(1, "<call>")], asked, 1, called)
    assert raw.message == Message("assistant", "<call>")
    assert parsed.message == Message("assistant", "call <call>")

"""From the text of a generated reply to a message."""

from __future__ import annotations

from tkernel.types.conversation import Message
from tkernel_plugins.templates.writer import Writer


def parse_reply(writer: Writer, text: str) -> Message:
    """Take thought and calls out of a reply; its frame (what the template puts around contents) goes too.

    Rendering the message again gives `text`, whether or not it still had its terminator.
    """
    reasoning = None
    opening, closing = writer.around(writer.assistant)
    call_opening, call_closing = writer.around(writer.function)
    if writer.reasoning and text.startswith(writer.empty_thought):
        reasoning, text = "", text[len(writer.empty_thought) :]
    for before in (call_opening, opening, ""):
        thought = writer.thought.match(text, len(before)) if text.startswith(before) else None
        if thought and thought[1]:
            reasoning, text = thought[1], text[thought.end() :]
            opening = call_opening = ""
            break
    called = writer.tools.read(_unframe(text, call_opening, call_closing))
    if called is not None:
        content, calls = called
        return Message("assistant", content, tool_calls=tuple(calls), reasoning=reasoning)
    return Message("assistant", _unframe(text, opening, closing), reasoning=reasoning)


def _unframe(text: str, opening: str, closing: str) -> str:
    """`text` without `opening` and without as much of `closing` as the engine left of it."""
    text = text.removeprefix(opening)
    for length in range(len(closing), 0, -1):
        if text.endswith(closing[:length]):
            return text[:-length]
    return text

"""Conversations on which an exported model is compared with what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

from tkernel.pipeline import Session, load_dataset
from tkernel.types.conversation import Conversation, Message
from tkernel_plugins.data.canonical import MEDIA

MOST = 8
"""Conversations that are compared."""

BUILT_IN = (
    "What is the capital of France?",
    "Write one sentence about rain.",
    "Count from one to ten in words.",
    "Translate 'good morning' into German.",
)
"""Asked where the configuration names no data."""


def probes_of(session: Session) -> list[Conversation]:
    """The first conversations of the session's data that end with a reply, without it; else the built-in ones."""
    found: list[Conversation] = []
    for entry in (*session.evaluation, *session.train):
        for row in load_dataset(session, entry).rows:
            if len(found) == MOST:
                return found
            if "messages" in row and not any(row.get(name) for name in MEDIA):
                conversation = Conversation.from_row(row)
                messages = until_last_question(conversation.messages)
                if messages:
                    found.append(Conversation(messages, tools=conversation.tools))
    return found or conversations_of(BUILT_IN)


def conversations_of(questions: Sequence[str]) -> list[Conversation]:
    """A conversation for each question."""
    return [Conversation((Message("user", text),)) for text in questions]


def until_last_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages up to the last one that a reply follows or could follow."""
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    return tuple(messages[:end])

"""Generating replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tkernel.types.conversation import Conversation, Message


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; names and defaults are LLaMA-Factory's."""

    do_sample: bool = True
    temperature: float = field(default=0.95, metadata={"ge": 0})
    top_p: float = field(default=0.7, metadata={"gt": 0, "le": 1})
    top_k: int = field(default=50, metadata={"ge": 0})
    num_beams: int = field(default=1, metadata={"ge": 1})
    max_new_tokens: int = field(default=1024, metadata={"ge": 0})
    repetition_penalty: float = field(default=1.0, metadata={"gt": 0})
    length_penalty: float = 1.0
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply to conversation number `index`.

    `text` is valid UTF-8 and what is new; the texts of one index joined are the whole reply.
    `finish_reason` is set in the last piece of an index: `stop` or `length`.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Reply:
    """A whole reply: its text, its ids (terminator included if it was generated) and the parsed message."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    message: Message


def collect(deltas: Iterable[Delta], count: int, parse: Callable[[str], Message]) -> list[Reply]:
    """The replies to `count` conversations from the pieces of a stream; `parse` is a renderer's `parse_reply`."""
    texts: list[list[str]] = [[] for _ in range(count)]
    ids: list[list[int]] = [[] for _ in range(count)]
    reasons = ["length"] * count
    for delta in deltas:
        texts[delta.index].append(delta.text)
        ids[delta.index].extend(delta.token_ids)
        reasons[delta.index] = delta.finish_reason or reasons[delta.index]
    joined = ["".join(pieces) for pieces in texts]
    return [
        Reply(text, tuple(tokens), reason, parse(text))
        for text, tokens, reason in zip(joined, ids, reasons, strict=True)
    ]


class Engine(Protocol):
    """What `generate` returns."""

    def stream(
        self, conversations: Sequence[Conversation], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Replies to many conversations at once, piece by piece and interleaved.

        `sampling` None means the options of the run. Closing the iterator stops the work.
        """
        ...

    def reply(self, conversations: Sequence[Conversation], sampling: Sampling | None = None) -> list[Reply]:
        """The same, collected."""
        ...

    def close(self) -> None:
        """Give back memory and processes. Safe to call twice."""
        ...

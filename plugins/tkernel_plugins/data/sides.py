"""A prompt and the reply to it, as ids: one side of a pair, a completion that was judged, a prompt alone.

How they are cut is LLaMA-Factory's rule for pairs with `truncation: proportional`: a prompt and its
longest reply share the room as one turn, and each is cut at its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Encoded, Renderer
from tkernel_plugins.data.media_places import MediaPlaces, expanded, has_media
from tkernel_plugins.data.samples import IGNORED
from tkernel_plugins.data.truncation import Stretch, keep, proportional


@dataclass(frozen=True)
class Side:
    """A conversation that ends with a completion, whole or cut; the completion begins at `start`."""

    given: Conversation
    written: Conversation
    encoded: Encoded
    start: int

    @property
    def reply(self) -> int:
        """The length of the completion in tokens."""
        return len(self.encoded.input_ids) - self.start


def joined(prompt: Conversation, completion: Sequence[Message]) -> Conversation:
    """The conversation of a prompt and a completion, of which only the completion's replies are learned.

    Raises:
        DataError: the completion does not begin and end with a reply, or a reply of the prompt has
            `train: true`.
    """
    if not completion or {completion[0].role, completion[-1].role} != {"assistant"}:
        raise DataError("a completion must begin and end with an assistant message")
    for position, message in enumerate(prompt.messages):
        if message.train and message.role == "assistant":
            raise DataError(
                f"message {position} is part of the prompt and has `train: true`; only completions are learned",
                hint="Leave `train` out there.",
            )
    if len(completion) > 1:
        completion = [
            dataclasses.replace(m, train=True) if m.role == "assistant" and m.train is None else m
            for m in completion
        ]
    return prompt.replace(messages=(*prompt.messages, *completion))


@dataclass(frozen=True)
class SideEncoder:
    """Renders and cuts sides; see `Renderer.encode` and `tkernel_plugins.data.truncation` for what that means."""

    renderer: Renderer
    tokenizer: Any
    media: MediaProcessor | None
    cutoff_len: int
    truncation: str

    def encode(self, given: Sequence[Conversation], completions: Sequence[int]) -> list[Side]:
        """Each conversation whole; `completions` are the lengths of their completions in messages.

        Raises:
            DataError: a conversation that the template cannot render, or whose parts it cannot tell apart.
        """
        written = [expanded(conversation, self.media) for conversation in given]
        whole = self.renderer.encode(written, mask_history=True)
        sides = []
        for conversation, expansion, encoded, length in zip(given, written, whole, completions, strict=True):
            start = _start(conversation, encoded, length)
            encoded.labels[:start] = [IGNORED] * start
            sides.append(Side(conversation, expansion, encoded, start))
        return sides

    def too_long(self, *sides: Side) -> bool:
        """Whether a side is longer than `cutoff_len`, and such samples are not used."""
        longest = max(len(side.encoded.input_ids) for side in sides)
        return self.truncation in ("drop", "error") and longest > self.cutoff_len

    def cut(self, *sides: Side) -> list[Side]:
        """Sides that have one prompt, cut so that they still have one.

        Raises:
            DataError: media that cannot be found in the text, or that only one side would keep.
        """
        start, longest = sides[0].start, max(side.reply for side in sides)
        if start + longest <= self.cutoff_len:
            return list(sides)
        located = [self._located(side) for side in sides]
        prompt, most = _share(start, longest, self.cutoff_len, self.truncation)
        cut = []
        for side in located:
            reply = min(most, side.reply)
            end = start + side.reply if self.truncation == "keep_end" else start + reply
            cut.append(dataclasses.replace(side, encoded=keep(side.encoded, [prompt, (end - reply, end)])))
        numbers = {tuple(number for _, _, number in side.encoded.media) for side in cut}
        if len(numbers) > 1:
            raise DataError(
                "a medium of a completion is cut off, and the other side keeps it",
                hint="Raise `cutoff_len`: such rows cannot be cut.",
            )
        kept = len(keep(located[0].encoded, [prompt]).input_ids)
        return [dataclasses.replace(side, start=kept) for side in cut]

    def _located(self, side: Side) -> Side:
        if not has_media(side.given):
            return side
        places = MediaPlaces(self.tokenizer)
        return dataclasses.replace(side, encoded=places.locate(side.given, side.written, side.encoded))


def with_prompt(side: Side, other: Side) -> Side:
    """`side` with the prompt of `other`: a template may end a prompt in view of the reply (thoughts)."""
    ours, theirs = side.encoded, other.encoded
    if ours.input_ids[: side.start] == theirs.input_ids[: other.start]:
        return side
    weights = None
    if ours.weights or theirs.weights:
        weights = (theirs.weights or [1.0] * len(theirs.labels))[: other.start]
        weights += (ours.weights or [1.0] * len(ours.labels))[side.start :]
    encoded = Encoded(
        input_ids=theirs.input_ids[: other.start] + ours.input_ids[side.start :],
        labels=theirs.labels[: other.start] + ours.labels[side.start :],
        weights=weights,
    )
    return dataclasses.replace(side, encoded=encoded, start=other.start)


def _start(conversation: Conversation, encoded: Encoded, length: int) -> int:
    """Where the reply begins with which the completion, the last `length` messages, begins."""
    replies = sum(message.role == "assistant" for message in conversation.messages[-length:])
    turns = list(dict.fromkeys(turn for _, _, turn, _ in encoded.spans))
    every = sum(message.role == "assistant" for message in conversation.messages)
    if replies > 1 and len(turns) != every:
        raise DataError(
            "the template cannot tell the replies of a completion of several messages apart",
            hint="Name another template (`template: ...`), or give completions of one message.",
        )
    return next(
        start for start, _, turn, part in encoded.spans if turn == turns[-replies] and part == "reply"
    )


def _share(prompt: int, reply: int, room: int, truncation: str) -> tuple[Stretch, int]:
    """The stretch of the prompt that is kept, and how many tokens of the longest reply are."""
    if truncation == "keep_start":
        return (0, min(prompt, room)), max(room - prompt, 0)
    if truncation == "keep_end":
        return (prompt - min(max(room - reply, 0), prompt), prompt), room
    ((keep_prompt, keep_reply),) = proportional([(prompt, reply)], room)
    return (0, keep_prompt), keep_reply

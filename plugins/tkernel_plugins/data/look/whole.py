"""Rows rendered without a limit, against which prepared samples are held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message, message_from_dict
from tkernel.types.rendering import Encoded
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.canonical import MEDIA, media_value
from tkernel_plugins.data.encode_text import TextEncoder
from tkernel_plugins.data.encoding import encoder_for
from tkernel_plugins.data.look.sample import IGNORED, Span
from tkernel_plugins.data.media_places import expanded
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.sides import SideEncoder, joined, with_prompt

Row = Mapping[str, Any]

STRIPS: Mapping[str, tuple[str, ...]] = {
    "supervised": ("input",),
    "preference": ("chosen", "rejected"),
    "feedback": ("input",),
    "prompt": ("input", "reply"),
    "text": ("input",),
}
"""Kind of rows -> the strips that a row gives on its own (feedback has also one with another row's reply)."""

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Whole:
    """All ids and labels of a conversation, and the turn and part of each."""

    ids: list[int]
    labels: list[int]
    spans: tuple[Span, ...]


class WholeRows:
    """Renders canonical rows as preparation does, but without cutting them.

    Args:
        request: the stage's request.
        kind: the stage's kind of rows.
    """

    def __init__(self, request: StageRequest, kind: str) -> None:
        self._request, self._kind = request, kind
        self._renderer, self._media = request.renderer, request.media
        self._sides = SideEncoder(
            request.renderer, request.bundle.tokenizer, request.media, _NO_LIMIT, "proportional"
        )

    def of(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        """Name of a strip -> what it is without a limit, for each row; nothing for a row that the template
        cannot render."""
        try:
            return self.encode(rows)
        except DataError:
            pass  # One of them is bad; one by one the others are found.
        return [self._or_nothing(row) for row in rows]

    def encode(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        """The same; a row that cannot be rendered is a `DataError`."""
        encode: dict[str, Callable[[Sequence[Row]], list[dict[str, Whole]]]] = {
            "supervised": self._supervised,
            "preference": self._preference,
            "feedback": self._feedback,
            "prompt": self._prompts,
            "text": self._texts,
        }
        return encode[self._kind](rows)

    def _or_nothing(self, row: Row) -> dict[str, Whole]:
        try:
            return self.encode([row])[0]
        except DataError:
            return {}

    def _supervised(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        options = self._request.options
        encoded = self._renderer.encode(
            [expanded(conversation_of(row), self._media) for row in rows],
            mask_history=bool(getattr(options, "mask_history", False)),
            train_on_prompt=bool(getattr(options, "train_on_prompt", False)),
        )
        return [{"input": _whole(one)} for one in encoded]

    def _preference(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        replies = [[_messages(row[side]) for side in ("chosen", "rejected")] for row in rows]
        given = [
            joined(conversation_of(row), reply)
            for row, pair in zip(rows, replies, strict=True)
            for reply in pair
        ]
        sides = self._sides.encode(given, [len(reply) for pair in replies for reply in pair])
        wholes = []
        for chosen, rejected in zip(sides[::2], sides[1::2], strict=True):
            shared = with_prompt(rejected, chosen)
            # A prompt that was taken over brings its spans; those of the reply move with it.
            move = shared.start - rejected.start
            prompt = [span for span in chosen.encoded.spans if span[1] <= chosen.start]
            reply = [
                (start + move, stop + move, turn, part)
                for start, stop, turn, part in rejected.encoded.spans
                if start >= rejected.start
            ]
            second = Whole(shared.encoded.input_ids, shared.encoded.labels, _from_one([*prompt, *reply]))
            wholes.append({"chosen": _whole(chosen.encoded), "rejected": second})
        return wholes

    def _feedback(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        replies = [_messages(row["completion"]) for row in rows]
        given = [joined(conversation_of(row), reply) for row, reply in zip(rows, replies, strict=True)]
        sides = self._sides.encode(given, list(map(len, replies)))
        return [{"input": _whole(side.encoded)} for side in sides]

    def _prompts(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        return [self._prompt(row) for row in rows]

    def _prompt(self, row: Row) -> dict[str, Whole]:
        conversation = expanded(conversation_of(row), self._media)
        replied = bool(conversation.messages) and conversation.messages[-1].role == "assistant"
        waiting = conversation.replace(messages=(*conversation.messages, Message("assistant")))
        (encoded,) = self._renderer.encode([conversation if replied else waiting], mask_history=True)
        start, _, turn, _ = next(span for span in reversed(encoded.spans) if span[3] == "reply")
        prompt, reply = encoded.input_ids[:start], encoded.input_ids[start:]
        spans = _from_one([span for span in encoded.spans if span[1] <= start])
        if not replied:
            ids = self._renderer.prompt_ids(conversation)
            # What asks for a reply may go on where a given reply would begin.
            known = spans if ids[: len(prompt)] == prompt else ()
            rest = len(prompt) if known else 0
            prompt, reply, spans = ids, [], (*known, (rest, len(ids), turn + 1 if known else None, "prompt"))
        wholes = {"input": Whole(prompt, [IGNORED] * len(prompt), spans)}
        if reply:
            wholes["reply"] = Whole(reply, reply, ((0, len(reply), turn + 1, "reply"),))
        return wholes

    def _texts(self, rows: Sequence[Row]) -> list[dict[str, Whole]]:
        tokenizer, options = self._request.bundle.tokenizer, self._request.options or PrepareOptions()
        encoder = encoder_for("text", renderer=self._renderer, tokenizer=tokenizer, options=options)
        assert isinstance(encoder, TextEncoder)
        begin = [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []
        documents = encoder.encode([row["text"] for row in rows])
        return [
            {"input": Whole([*begin, *ids], [*begin, *ids], ((0, len(begin) + len(ids), None, "text"),))}
            for ids in documents
        ]


def conversation_of(row: Row) -> Conversation:
    """The conversation in `messages` of a canonical row, media as processors take them."""
    conversation = Conversation.from_row(row)
    return conversation.replace(**{name: tuple(map(media_value, row.get(name) or ())) for name in MEDIA})


def _messages(column: Sequence[Mapping[str, Any]]) -> list[Message]:
    return [message_from_dict(message) for message in column]


def _whole(encoded: Encoded) -> Whole:
    return Whole(encoded.input_ids, encoded.labels, _from_one(encoded.spans))


def _from_one(spans: Sequence[tuple[int, int, int, str]]) -> tuple[Span, ...]:
    """Spans whose turns count from 1; empty ones are left out."""
    return tuple((start, stop, turn + 1, part) for start, stop, turn, part in spans if stop > start)

"""Where the media of a conversation stand among its ids, and which of them are left when it was cut."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tkernel.encoding import SegmentEncoder
from tkernel.errors import DataError
from tkernel.types.conversation import Conversation
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Encoded, Segment
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.frames import as_reference

PLACEHOLDER = re.compile("<(image|video|audio)>")

Medium = tuple[str, int]
"""The column (`images`, ...) and the position in it."""


def expanded(conversation: Conversation, media: MediaProcessor | None) -> Conversation:
    """The conversation with tokens in place of its placeholders.

    Raises:
        DataError: the media do not fit the placeholders, or the model takes none.
    """
    if media is not None:
        return media.expand(conversation)
    for name in MEDIA:
        if getattr(conversation, name):
            raise DataError(
                f"the row has {name}, and the model of this run takes none",
                hint="Use a multimodal model, or leave such rows out with `on_bad_row: drop`.",
            )
    return conversation


def references(conversation: Conversation, left: Iterable[Medium] | None = None) -> dict[str, list[Any]]:
    """The media columns of a sample; `left` are the media that its text still has, None all of them."""
    columns = {name: list(map(_reference, getattr(conversation, name))) for name in MEDIA}
    if left is None:
        return columns
    kept = set(left)
    return {
        name: [item for number, item in enumerate(items) if (name, number) in kept]
        for name, items in columns.items()
    }


@dataclasses.dataclass(frozen=True)
class MediaPlaces:
    """Finds media among ids by the ids of what was written in place of their placeholders."""

    tokenizer: Any

    def locate(self, given: Conversation, written: Conversation, encoded: Encoded) -> Encoded:
        """`encoded` with `media`; medium `number` is `media_of(given)[number]`.

        Args:
            given: the conversation with placeholders.
            written: the same after `MediaProcessor.expand`.

        Raises:
            DataError: they cannot be found, so that the conversation cannot be cut.
        """
        texts = [m.content[start:end] for m in written.messages for start, end in sorted(m.expanded)]
        if len(texts) != len(media_of(given)):
            raise DataError(
                f"{len(texts)} stretches of text stand for {len(media_of(given))} media, and the row is too long",
                hint="Raise `cutoff_len`: such rows cannot be cut.",
            )
        encoder = SegmentEncoder(self.tokenizer)
        position, places = 0, []
        for number, ids in enumerate(encoder.encode([Segment(text) for text in texts])):
            position = _find(ids, encoded.input_ids, position)
            places.append((position, position + len(ids), number))
            position += len(ids)
        return dataclasses.replace(encoded, media=places)


def media_of(conversation: Conversation) -> list[Medium]:
    """The media in the order of their placeholders."""
    counts: dict[str, int] = {}
    found = []
    for message in conversation.messages:
        for kind in PLACEHOLDER.findall(message.content):
            name = f"{kind}s"
            if getattr(conversation, name):  # else somebody typed it
                number = counts[name] = counts.get(name, -1) + 1
                found.append((name, number))
    return found


def left_of(conversation: Conversation, encoded: Encoded) -> list[Medium]:
    """The media that a sample cut out of `conversation` still has."""
    media = media_of(conversation)
    return [media[number] for _, _, number in encoded.media]


def has_media(conversation: Conversation) -> bool:
    """Whether any message has a medium."""
    return bool(conversation.images or conversation.videos or conversation.audios)


def _find(ids: Sequence[int], among: Sequence[int], start: int) -> int:
    """Where `ids` next occur in `among`."""
    for position in range(start, len(among) - len(ids) + 1):
        if among[position : position + len(ids)] == ids:
            return position
    raise DataError(
        "what stands for a medium is not in the rendered text, and the row is too long",
        hint="Raise `cutoff_len`: such rows cannot be cut.",
    )


def _reference(item: Any) -> Mapping[str, Any]:
    item = as_reference(item) if isinstance(item, tuple) else item
    return {"path": None, "bytes": item} if isinstance(item, bytes) else {"path": item, "bytes": None}

"""Images, video and audio between a row and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tkernel.types.conversation import Conversation


@dataclass(frozen=True)
class MediaRefs:
    """The media of one sample: paths, URLs or bytes (a video may be a tuple of frames); opened in the collator."""

    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    audios: tuple[Any, ...] = ()


class MediaProcessor(Protocol):
    """What `process_media` returns."""

    def expand(self, conversation: Conversation) -> Conversation:
        """Replace every placeholder by as many tokens as the model will have features for.

        Where it writes special tokens it says so in `Message.expanded`; those typed by a user stay
        text. Reads sizes, not pixels. Raises `DataError` if placeholders and media differ in number, or
        if a file is missing.
        """
        ...

    def collate(self, samples: Sequence[MediaRefs]) -> Mapping[str, Any]:
        """Model inputs (`pixel_values`, ...) of a batch, opened, resized and stacked as tensors."""
        ...

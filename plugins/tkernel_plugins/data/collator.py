"""Encoded samples to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tkernel.types.media import MediaProcessor
from tkernel_plugins.data.padding import media_inputs, sequences


class SupervisedCollator:
    """Pads samples on the right to the longest, rounded up to a multiple of `pad_to_multiple_of`.

    The batch has, as int64 of shape (batch, length): `input_ids`, `labels` (-100 where nothing is
    learned), `attention_mask` (by position: the padding token may also occur in a sample); as
    float32 `weights` if any sample has them; `origin`, one dict a sample, for messages (not a model
    input); and what `media` makes of images, videos and audios.

    Args:
        pad_token_id: the id that fills `input_ids`.
        pad_to_multiple_of: 8 is what LLaMA-Factory pads training batches to; None pads to the longest.
        media: the run's media processor; needed only for samples with media.
        learn_padding: padding has the label `pad_token_id` (`ignore_pad_token_for_loss: false`).
    """

    def __init__(
        self,
        pad_token_id: int,
        *,
        pad_to_multiple_of: int | None = 8,
        media: MediaProcessor | None = None,
        learn_padding: bool = False,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of
        self.media = media
        self.learn_padding = learn_padding

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `samples`, which are rows of `Prepared.train` or `.eval`."""
        batch: dict[str, Any] = sequences(
            [sample["input_ids"] for sample in samples],
            [sample["labels"] for sample in samples],
            [sample.get("weights") for sample in samples],
            pad_token_id=self.pad_token_id,
            multiple=self.pad_to_multiple_of,
            learn_padding=self.learn_padding,
        )
        batch.update(media_inputs(self.media, samples))
        batch["origin"] = [sample.get("origin") for sample in samples]
        return batch

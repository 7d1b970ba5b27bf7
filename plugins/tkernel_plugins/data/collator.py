"""Encoded samples to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tkernel.types.media import MediaProcessor, MediaRefs
from tkernel_plugins.data.canonical import MEDIA, media_value

IGNORED = -100


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
    """

    def __init__(
        self, pad_token_id: int, *, pad_to_multiple_of: int | None = 8, media: MediaProcessor | None = None
    ) -> None:
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of
        self.media = media

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `samples`, which are rows of `Prepared.train` or `.eval`."""
        import torch

        step = self.pad_to_multiple_of or 1
        longest = max(len(sample["input_ids"]) for sample in samples)
        shape = (len(samples), -(-longest // step) * step)
        batch: dict[str, Any] = {
            "input_ids": torch.full(shape, self.pad_token_id, dtype=torch.long),
            "labels": torch.full(shape, IGNORED, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        weighted = any(sample.get("weights") is not None for sample in samples)
        if weighted:
            batch["weights"] = torch.ones(shape, dtype=torch.float32)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            batch["input_ids"][row, :length] = torch.as_tensor(sample["input_ids"])
            batch["labels"][row, :length] = torch.as_tensor(sample["labels"])
            batch["attention_mask"][row, :length] = 1
            if weighted and sample.get("weights") is not None:
                batch["weights"][row, :length] = torch.as_tensor(sample["weights"])
        if self.media is not None:
            batch.update(self.media.collate([_references(sample) for sample in samples]))
        batch["origin"] = [sample.get("origin") for sample in samples]
        return batch


def _references(sample: Mapping[str, Any]) -> MediaRefs:
    return MediaRefs(**{name: tuple(map(media_value, sample.get(name) or ())) for name in MEDIA})

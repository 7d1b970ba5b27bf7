"""Prompts to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.types.media import MediaProcessor
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.padding import IGNORED, attention_mask, media_inputs, padded

_TENSORS = ("input_ids", "labels", "origin", *MEDIA)


@dataclass(frozen=True)
class PromptCollator:
    """Pads prompts on the left, so that every reply begins where its prompt ends.

    The batch has, as int64 of shape (batch, length), `input_ids` and `attention_mask`; `labels` of shape
    (batch, longest reply), the replies of the rows padded on the right with -100, if any row has one (they
    are no part of the sequence); every other column of the samples as a list, for reward functions; what
    `media` makes of images, videos and audios; and `origin`, one dict a sample.

    TRL's online trainers (GRPO, RLOO) take rows with a conversation instead and encode it themselves;
    these batches are for loops that generate from ids.

    Args:
        pad_token_id: the id that fills `input_ids`.
        pad_to_multiple_of: None pads to the longest prompt, as LLaMA-Factory's PPO does.
        media: the run's media processor; needed only for samples with media.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    media: MediaProcessor | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `samples`, which are rows of `Prepared.train` or `.eval`."""
        import torch

        prompts = [sample["input_ids"] for sample in samples]
        replies = [sample.get("labels") or () for sample in samples]
        step = self.pad_to_multiple_of
        others = {name: None for sample in samples for name in sample if name not in _TENSORS}
        batch: dict[str, Any] = {name: [sample.get(name) for sample in samples] for name in others}
        batch["input_ids"] = padded(prompts, self.pad_token_id, torch.long, multiple=step, left=True)
        batch["attention_mask"] = attention_mask(prompts, batch["input_ids"].shape[1], left=True)
        if any(replies):
            batch["labels"] = padded(replies, IGNORED, torch.long, multiple=None)
        batch.update(media_inputs(self.media, samples))
        batch["origin"] = [sample.get("origin") for sample in samples]
        return batch

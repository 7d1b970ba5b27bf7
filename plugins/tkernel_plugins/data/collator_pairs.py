"""Pairs and judged completions to a batch of tensors.

The names are TRL's where its trainers have one: its DPO and reward trainers take `input_ids` and
`attention_mask` with the chosen half first, DPO also `completion_mask`; its KTO trainer takes those, the
same three with `KL_` before them, and `label`. TRL's own collators join prompt and completion ids and mark
the whole completion; here `completion_mask` is 1 where a label is, so that a reply with `train: false`
and the prompts between the replies of a long completion are not counted. TRL gives all other keys to the
model, so `for_trl` leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.media import MediaProcessor
from tkernel_plugins.data.padding import IGNORED, media_inputs, sequences

Batch = dict[str, Any]

_NOT_FOR_TRL = ("labels", "KL_labels", "origin")


@dataclass(frozen=True)
class PreferenceCollator:
    """The chosen sides of `n` samples, then the rejected ones, padded on the right to one length.

    The batch has, as int64 of shape (2n, length), `input_ids`, `attention_mask`, `completion_mask` (1 where
    a token is learned) and `labels`; as float32 `weights` of that shape if any side has them, and of shape
    (n,) `ref_chosen_logps`, `ref_rejected_logps`, `margin` if the samples have them; what `media` makes of
    the media of the `2n` sides; and `origin`, one dict a sample.

    Args:
        pad_token_id: the id that fills `input_ids`.
        pad_to_multiple_of: 8 is what LLaMA-Factory pads batches of pairs to.
        media: the run's media processor; needed only for samples with media.
        learn_padding: padding has the label `pad_token_id` (`ignore_pad_token_for_loss: false`).
        for_trl: only what a trainer of TRL takes.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = 8
    media: MediaProcessor | None = None
    learn_padding: bool = False
    for_trl: bool = False

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `samples`, which are rows of `Prepared.train` or `.eval`."""
        sides = [(sample, side) for side in ("chosen", "rejected") for sample in samples]
        batch: Batch = sequences(
            [sample[f"{side}_input_ids"] for sample, side in sides],
            [sample[f"{side}_labels"] for sample, side in sides],
            [sample.get(f"{side}_weights") for sample, side in sides],
            pad_token_id=self.pad_token_id,
            multiple=self.pad_to_multiple_of,
            learn_padding=self.learn_padding,
        )
        batch["completion_mask"] = batch["labels"].ne(IGNORED).long()
        batch |= _numbers(samples, ("ref_chosen_logps", "ref_rejected_logps", "margin"))
        batch.update(media_inputs(self.media, [sample for sample, _ in sides]))
        batch["origin"] = [sample.get("origin") for sample in samples]
        return _as_trl(batch) if self.for_trl else batch


@dataclass(frozen=True)
class FeedbackCollator:
    """Completions and, apart from them, the mismatched ones, each padded on the right.

    The batch has, as int64 of shape (n, length), `input_ids`, `attention_mask`, `completion_mask` and
    `labels`, and the same four of another length with `KL_` before their names; `label` (n,), bool, true
    where the completion was liked; as float32 `weights` if any completion has them, and of shape (n,)
    `ref_logps`, `ref_KL_logps` if the samples have them; what `media` makes of the media, which belong to
    both; and `origin`, one dict a sample. The arguments are those of `PreferenceCollator`.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = 8
    media: MediaProcessor | None = None
    learn_padding: bool = False
    for_trl: bool = False

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `samples`, which are rows of `Prepared.train` or `.eval`."""
        import torch

        batch: Batch = {}
        for theirs, ours in (("", ""), ("KL_", "kl_")):
            part = sequences(
                [sample[f"{ours}input_ids"] for sample in samples],
                [sample[f"{ours}labels"] for sample in samples],
                [sample.get(f"{ours}weights") for sample in samples],
                pad_token_id=self.pad_token_id,
                multiple=self.pad_to_multiple_of,
                learn_padding=self.learn_padding,
            )
            part["completion_mask"] = part["labels"].ne(IGNORED).long()
            batch |= {f"{theirs}{name}": tensor for name, tensor in part.items()}
        batch["label"] = torch.tensor([bool(sample["label"]) for sample in samples])
        batch |= _numbers(samples, ("ref_logps", "ref_KL_logps"))
        batch.update(media_inputs(self.media, samples))
        batch["origin"] = [sample.get("origin") for sample in samples]
        return _as_trl(batch) if self.for_trl else batch


def _numbers(samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Batch:
    """Columns of one number a sample, those of `names` that are there."""
    import torch

    present = [name for name in names if samples and samples[0].get(name) is not None]
    return {name: torch.tensor([sample[name] for sample in samples], dtype=torch.float32) for name in present}


def _as_trl(batch: Batch) -> Batch:
    """What a trainer of TRL takes of a batch.

    Raises:
        DataError: the samples have weights, which it would give to the model.
    """
    if "weights" in batch:
        raise DataError(
            "the data has weights, and this stage's loss takes none",
            hint="Take `weight` out of the messages.",
        )
    return {name: value for name, value in batch.items() if name not in _NOT_FOR_TRL}

"""Rows that hold several samples to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.types.media import MediaProcessor
from tkernel_plugins.data.padding import media_inputs

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True)
class Separation:
    """How a model is told where one sample ends and the next begins."""

    mask: torch.dtype | None = None
    """None leaves it to position ids that start again at 0, without an attention mask. Otherwise a mask of
    shape (batch, 1, length, length) in this dtype: bool, or 0 and the lowest number of a float."""
    joined: bool = False
    """Join the rows of a batch to one without padding, for attention that separates one row only."""


class PackedCollator:
    """Batches of packed rows, or of samples that are joined to one row (`padding_free`).

    The batch has, as int64 of shape (batch, length): `input_ids`, `labels` (-100 in the padding, and on the
    first token of each sample: nothing of its own comes before it), `position_ids` (from 0 in each sample,
    0 in the padding); `attention_mask` as described below; as float32 `weights` if any row has them;
    `tokens`, how many are no padding, and `origin`, one dict a sample (neither is a model input); and what
    `media` makes of images, videos and audios.

    Samples that are separated by position come with `use_cache` False: with a cache, which some models keep
    in training too, transformers does not look for the borders.

    Without `separation` the samples of a row see each other and the mask is 1 everywhere, as
    LLaMA-Factory's: padding is on the right, where no token looks.

    Args:
        pad_token_id: the id that fills `input_ids`.
        padded: the length of every row; None pads to the longest.
        separation: how samples are kept apart; None does not.
        run_on: the samples of a row are one text: the first token of each is learned too, and there are no
            `position_ids`, so positions count on.
        media: the run's media processor; needed only for samples with media.
    """

    def __init__(
        self,
        pad_token_id: int,
        *,
        padded: int | None = None,
        separation: Separation | None = None,
        run_on: bool = False,
        media: MediaProcessor | None = None,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.padded = padded
        self.separation = separation
        self.run_on = run_on
        self.media = media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`; a row without `lengths` is one sample."""
        import torch

        lengths = [list(row["lengths"]) if "lengths" in row else [len(row["input_ids"])] for row in rows]
        joined = self.separation is not None and self.separation.joined
        groups = [list(range(len(rows)))] if joined else [[row] for row in range(len(rows))]
        sizes = [sum(len(rows[row]["input_ids"]) for row in group) for group in groups]
        shape = (len(groups), max(sizes) if joined else max(self.padded or 0, *sizes, 0))
        batch: dict[str, Any] = {
            "input_ids": torch.full(shape, self.pad_token_id, dtype=torch.long),
            "labels": torch.full(shape, IGNORED, dtype=torch.long),
            "position_ids": torch.zeros(shape, dtype=torch.long),
        }
        numbers = torch.zeros(shape, dtype=torch.long)
        weighted = any(row.get("weights") is not None for row in rows)
        if weighted:
            batch["weights"] = torch.ones(shape, dtype=torch.float32)
        for index, group in enumerate(groups):
            start = 0
            for row in group:
                end = start + len(rows[row]["input_ids"])
                batch["input_ids"][index, start:end] = torch.as_tensor(rows[row]["input_ids"])
                batch["labels"][index, start:end] = torch.as_tensor(rows[row]["labels"])
                if weighted and rows[row].get("weights") is not None:
                    batch["weights"][index, start:end] = torch.as_tensor(rows[row]["weights"])
                start = end
            samples = [length for row in group for length in lengths[row]]
            batch["position_ids"][index, :start] = torch.cat([torch.arange(length) for length in samples])
            numbers[index, :start] = number_samples(samples)
        if self.run_on:
            del batch["position_ids"]
        else:
            batch["labels"][batch["position_ids"] == 0] = IGNORED
        if self.separation is None:
            batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
        elif self.separation.mask is not None:
            batch["attention_mask"] = block_diagonal(numbers, self.separation.mask)
        else:
            batch["use_cache"] = False
        batch.update(media_inputs(self.media, rows))
        batch["tokens"] = numbers.ne(0).sum()
        batch["origin"] = [origin for row in rows for origin in _origins(row)]
        return batch


def number_samples(lengths: Sequence[int]) -> torch.Tensor:
    """The samples of a row numbered from 1, token by token, as in LLaMA-Factory's packed masks: `[2, 1]` gives 1 1 2."""
    import torch

    return torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.as_tensor(lengths))


def block_diagonal(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The causal mask in which tokens see those of the same number.

    Args:
        numbers: (batch, length), the sample of each token from 1; 0 is padding, which sees itself alone.
        dtype: bool (True is seen), or a float (0 is seen, the lowest number is not).

    Returns:
        (batch, 1, length, length): who looks, at whom.
    """
    import torch

    length = numbers.shape[1]
    same = (numbers[:, :, None] == numbers[:, None, :]) & numbers.ne(0)[:, None, :]
    seen = same.tril() | torch.eye(length, dtype=torch.bool)
    seen = seen[:, None]
    if dtype == torch.bool:
        return seen
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _origins(row: Mapping[str, Any]) -> list[Any]:
    return list(row["origins"]) if "origins" in row else [row.get("origin")]

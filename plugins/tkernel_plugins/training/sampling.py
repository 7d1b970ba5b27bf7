"""The order in which samples of similar length meet in a batch (`train_sampling_strategy`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class Lengths(Dataset[dict[str, range]]):
    """Stands for a dataset where transformers asks only how long its samples are.

    It reads the lengths of all samples from Arrow's offsets at once, where transformers would read every
    sample. An item is `{"input_ids": range(length)}`.
    """

    def __init__(self, dataset: Any) -> None:
        self.lengths = lengths_of(dataset)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, range]:
        return {"input_ids": range(self.lengths[index])}


class LengthGrouped(LengthGroupedSampler):  # type: ignore[misc]
    """Groups of similar length in an order that seed and epoch decide alone, so that it can be resumed.

    Args:
        lengths: tokens of each sample.
        batch_size: samples of one optimizer step.
        seed: `data_seed`, or else `seed`.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def lengths_of(dataset: Any) -> list[int]:
    """Tokens of each sample of a `datasets.Dataset` with `input_ids`; of pairs, those of both sides."""
    import numpy as np
    import pyarrow.compute as pc

    columns = [name for name in dataset.column_names if name.endswith("input_ids")]
    lengths = sum(pc.list_value_length(dataset.data.column(name)).to_numpy() for name in columns)
    if dataset._indices is not None:  # after `select` or `shuffle` the table still holds all rows
        lengths = lengths[dataset._indices.column(0).to_numpy()]
    return [int(length) for length in np.asarray(lengths)]

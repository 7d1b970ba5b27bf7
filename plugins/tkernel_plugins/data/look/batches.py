"""The micro-batches of the first epoch, in the order in which `transformers` draws them, and their padding."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.types.requests import StageRequest
from tkernel_plugins.data.look.lengths import Lengths
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.packing import packing_of

if TYPE_CHECKING:
    import numpy as np

MULTIPLE = 8
"""What the collators pad to a multiple of, as LLaMA-Factory does."""

_ORDER = frozenset(
    {
        "accelerator_config",
        "data_seed",
        "dataloader_drop_last",
        "gradient_accumulation_steps",
        "group_by_length",
        "length_column_name",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "train_sampling_strategy",
    }
)
"""The training arguments on which the order of samples and the number of steps depend."""


@dataclass(frozen=True)
class Batches:
    """What padding costs in the first epoch."""

    order: str
    """`random`, `sequential`, `group_by_length`: the sampling strategy."""
    size: int
    """Rows of a micro-batch on one device."""
    count: int
    tokens: int
    """Tokens that are no padding."""
    padded: int
    """All tokens that the model computes."""

    @property
    def waste(self) -> float:
        """The share of tokens that are padding."""
        return 1 - self.tokens / self.padded if self.padded else 0.0


@dataclass(frozen=True)
class Steps:
    """How often the optimizer steps."""

    world_size: int
    accumulation: int
    per_epoch: int
    epochs: float
    total: int


def plan_batches(
    request: StageRequest, lengths: Lengths, kind: str, world_size: int
) -> tuple[Batches, Steps]:
    """The micro-batches and steps of training on one split with the run's own arguments.

    The batches are those of one process; several share them out.
    """
    trainer = _trainer(request, lengths.longest)
    batches = list(_drawn(trainer))
    groups = [[rows[batch] for batch in batches] for rows in lengths.rows]
    options = request.options or PrepareOptions()
    packing = packing_of(options, kind, request.bundle.tokenizer) if lengths.packed else None
    whole = packing.padded if packing is not None else None
    joined = options.padding_free
    tokens = sum(int(rows.sum()) for group in groups for rows in group)
    multiple = 1 if packing is not None else MULTIPLE
    padded = tokens if joined else sum(_padded(rows, whole, multiple) for group in groups for rows in group)
    arguments = trainer.args
    found = Batches(
        str(getattr(arguments.train_sampling_strategy, "value", arguments.train_sampling_strategy)),
        arguments.per_device_train_batch_size,
        len(batches),
        tokens,
        padded,
    )
    return found, _steps(arguments, len(batches), world_size)


def _trainer(request: StageRequest, lengths: np.ndarray[Any, Any]) -> Any:
    """A real Trainer, over numbers in place of samples, so that the order is the Trainer's own."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    given: Mapping[str, Any] = {name: value for name, value in request.arguments.items() if name in _ORDER}
    values = {**given, "length_column_name": "length"}
    if getattr(request.options, "disable_shuffling", False):
        values["train_sampling_strategy"] = "sequential"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, seed=request.seed, use_cpu=True, report_to="none", remove_unused_columns=False, **values
        )
    rows = Dataset.from_dict({"row": range(len(lengths)), "length": lengths})
    return Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=rows, data_collator=_rows)


def _rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import torch

    return {"row": torch.tensor([row["row"] for row in rows])}


def _drawn(trainer: Any) -> Iterator[Any]:
    import numpy as np

    for batch in trainer.get_train_dataloader().batch_sampler:
        yield np.asarray(batch)


def _padded(rows: np.ndarray[Any, Any], whole: int | None, multiple: int) -> int:
    """Tokens of a micro-batch of shape (rows, columns) with its padding; `whole` is the length of a packed row."""
    longest = max(whole or 0, int(rows.max()))
    return int(-(-longest // multiple) * multiple * rows.size)


def _steps(arguments: Any, batches: int, world_size: int) -> Steps:
    """As `Trainer.set_initial_training_values` counts them."""
    share = batches // world_size if arguments.dataloader_drop_last else math.ceil(batches / world_size)
    accumulation = arguments.gradient_accumulation_steps
    per_epoch = max(math.ceil(share / accumulation), 1)
    limited = arguments.max_steps > 0
    total = arguments.max_steps if limited else math.ceil(arguments.num_train_epochs * per_epoch)
    epochs = total / per_epoch if limited else arguments.num_train_epochs
    return Steps(world_size, accumulation, per_epoch, float(epochs), total)

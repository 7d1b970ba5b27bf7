"""The micro-batches of the first epoch, in the order in which the trainer draws them, and their padding."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from tkernel.types.requests import StageRequest
from tkernel_plugins.data.look.batches import Batches, Steps
from tkernel_plugins.data.look.lengths import Lengths
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.packing import packing_of
from tkernel_plugins.training.quiet import quiet
from tkernel_plugins.training.trainer import SupervisedTrainer

MULTIPLE = 8
"""What collators pad samples to a multiple of, as LLaMA-Factory does; packed rows are not."""

_ORDER = frozenset(
    {
        "accelerator_config",
        "data_seed",
        "dataloader_drop_last",
        "gradient_accumulation_steps",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "train_sampling_strategy",
    }
)
"""The training arguments on which the order of samples and the number of steps depend."""


def plan_batches(
    request: StageRequest, kind: str, lengths: Lengths, world_size: int
) -> tuple[Batches, Steps]:
    """The micro-batches and steps of training on samples of these lengths with the run's own arguments.

    The batches are those of one process; several share them out. Samples of a stream are taken in the order in
    which it gives them.
    """
    trainer = _trainer(request, lengths)
    batches = [np.asarray(batch) for batch in trainer.get_train_dataloader().batch_sampler]
    options = request.options or PrepareOptions()
    packing = packing_of(options, kind, request.bundle.tokenizer) if lengths.packed else None
    drawn = [rows[batch] for rows in lengths.rows for batch in batches]
    tokens = sum(int(rows.sum()) for rows in drawn)
    if options.padding_free:
        padded = tokens
    elif packing is not None:
        padded = sum(rows.size * max(packing.padded or 0, int(rows.max())) for rows in drawn)
    else:
        padded = sum(rows.size * math.ceil(int(rows.max()) / MULTIPLE) * MULTIPLE for rows in drawn)
    arguments = trainer.args
    order = "stream" if lengths.stream else str(arguments.train_sampling_strategy)
    found = Batches(order, arguments.per_device_train_batch_size, len(batches), tokens, padded)
    return found, _steps(arguments, len(batches), world_size)


def _trainer(request: StageRequest, lengths: Lengths) -> SupervisedTrainer:
    """A real trainer, over samples that have lengths and no content, so that the order is the trainer's own."""
    given: Mapping[str, Any] = {name: value for name, value in request.arguments.items() if name in _ORDER}
    in_order = lengths.stream or getattr(request.options, "disable_shuffling", False)
    values = {**given, **({"train_sampling_strategy": "sequential"} if in_order else {})}
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = TrainingArguments(
            folder, seed=request.seed, use_cpu=True, report_to="none", remove_unused_columns=False, **values
        )
        return SupervisedTrainer(
            torch.nn.Linear(1, 1), arguments, train_dataset=_empty(lengths.longest), data_collator=_rows
        )


def _empty(lengths: np.ndarray[Any, Any]) -> Any:
    """A dataset with a column `input_ids` of these lengths, of which no token takes memory."""
    import pyarrow as pa
    from datasets import Dataset

    offsets = np.zeros(len(lengths) + 1, "int64")
    np.cumsum(lengths, out=offsets[1:])
    ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.nulls(int(offsets[-1])))
    return Dataset(pa.table({"row": pa.array(range(len(lengths))), "input_ids": ids}))


def _rows(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {"row": torch.tensor([sample["row"] for sample in samples])}


def _steps(arguments: TrainingArguments, batches: int, world_size: int) -> Steps:
    """As `Trainer.set_initial_training_values` counts them."""
    share = batches // world_size if arguments.dataloader_drop_last else math.ceil(batches / world_size)
    accumulation = arguments.gradient_accumulation_steps
    per_epoch = max(math.ceil(share / accumulation), 1)
    limited = arguments.max_steps > 0
    total = arguments.max_steps if limited else math.ceil(arguments.num_train_epochs * per_epoch)
    epochs = total / per_epoch if limited else arguments.num_train_epochs
    return Steps(world_size, accumulation, per_epoch, float(epochs), total)

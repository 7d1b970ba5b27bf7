"""Training on a stream: the share of each process, and the place from which a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import TrainingArguments

from tkernel_plugins.data.prepare import REPORT
from tkernel_plugins.data.streaming import EncodedStream, Position, StreamReport
from tkernel_plugins.training.errors import CheckpointError
from tkernel_plugins.training.interrupt import leave_signals_to_the_parent

FILE = "stream_position.json"
"""What a checkpoint holds of a stream."""

KEY = "position"
"""The key under which samples and batches carry the position after them."""


class EndlessSamples(IterableDataset[dict[str, Any]]):
    """Samples of a stream, pass after pass, of which each process gets its part.

    Of every `world_size * batch_size` samples the process of rank r gets those from `r * batch_size` on, so
    the processes together train on the samples that one process with the larger batch would train on, and
    none is used twice. Since nothing ends, every batch is full. Of several workers of a data loader one
    reads; the order is the same with any number of them.

    Each sample carries, under `position`, the `Position` after the samples of all processes.
    """

    def __init__(self, stream: EncodedStream, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.stream, self.batch_size, self.rank, self.world_size = stream, batch_size, rank, world_size
        self.start = Position()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        group: list[dict[str, Any]] = []
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for sample, position in self.stream.endless(self.start):
            group.append(sample)
            if len(group) == self.batch_size * self.world_size:
                yield from ({**one, KEY: position} for one in group[own])
                group = []


class PositionedCollator:
    """Another collator, whose batches carry the position of their last sample."""

    def __init__(self, collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `samples`, with `position`."""
        plain = [{name: value for name, value in sample.items() if name != KEY} for sample in samples]
        return {**self.collator(plain), KEY: samples[-1][KEY]}


def stream_loader(samples: EndlessSamples, collator: Any, arguments: TrainingArguments) -> DataLoader[Any]:
    """The data loader of a stream; accelerate, which would give each process other samples, is not asked."""
    workers = arguments.dataloader_num_workers
    return DataLoader(
        samples,
        batch_size=samples.batch_size,
        collate_fn=PositionedCollator(collator),
        num_workers=workers,
        pin_memory=arguments.dataloader_pin_memory and arguments.device.type != "cpu",
        persistent_workers=arguments.dataloader_persistent_workers and workers > 0,
        prefetch_factor=arguments.dataloader_prefetch_factor if workers else None,
        worker_init_fn=leave_signals_to_the_parent,
        multiprocessing_context=arguments.dataloader_multiprocessing_context if workers else None,
        # Its own numbers: a loader that is made again on resuming must not draw from those of dropout.
        generator=torch.Generator().manual_seed(arguments.seed),
    )


def save_position(folder: Path, position: Position) -> None:
    """Write the position into a checkpoint."""
    (folder / FILE).write_text(json.dumps(asdict(position)) + "\n", encoding="utf-8")


def read_position(folder: Path) -> Position:
    """The position in a checkpoint.

    Raises:
        CheckpointError: it has none, or it cannot be read.
    """
    try:
        return Position(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        problem = f"holds no {FILE}: it was saved without `streaming`, or with `save_only_model`"
    except (ValueError, TypeError) as error:
        problem = f"holds a {FILE} that cannot be read: {error}"
    raise CheckpointError(
        f"the checkpoint {folder} {problem}",
        hint="Resume with the options of the run that saved it, or start afresh in another `output_dir`.",
    )


def save_report(position: Position, output_dir: Path) -> None:
    """Print what was counted up to a position, and write it where that of whole data is."""
    if not position.counted:
        return
    report = StreamReport.restored(position.counted)
    passes = f"{position.epoch} times whole, then to" if position.epoch else "up to"
    place = position.last or {}
    print(f"stream so far: {passes} {place.get('file')} row {place.get('row')}")
    print("\n".join(report.lines()), flush=True)
    text = json.dumps(dict(report.to_json()), indent=1)
    (output_dir / REPORT).write_text(text + "\n", encoding="utf-8")

"""Whether the disk has room for what a run will save, told before it starts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from tkernel.errors import TkError
from tkernel_plugins.training.checkpoints import WEIGHTS, checkpoints

MOMENTS = {"adamw_torch": 2, "adamw_torch_fused": 2, "adamw_apex_fused": 2, "nadam": 2, "adagrad": 1}
"""Optimizer -> numbers of the weights' precision that it keeps for each of them; of others nothing is assumed."""


class NoRoom(TkError):
    """The disk cannot hold what the run will save."""

    exit_code = 2


def require_room(module: Any, arguments: TrainingArguments, steps: int | None = None) -> None:
    """Refuse a run whose result and checkpoints surely do not fit.

    Args:
        module: the model with its adapters.
        steps: of the whole run; before the data is known, what `max_steps` says.

    Raises:
        NoRoom: with the numbers.
    """
    if not arguments.do_train or not arguments.should_save:
        return
    weights, optimizer = weight_bytes(module), optimizer_bytes(module, arguments)
    checkpoint = weights + (0 if arguments.save_only_model else optimizer)
    kept = kept_checkpoints(arguments, steps or max(arguments.max_steps, 0))
    needed = weights + kept * checkpoint
    folder = Path(arguments.output_dir).absolute()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    replaced = [path for name in WEIGHTS if (path := folder / name).exists()]
    held = sum(map(_size, [*checkpoints(folder), *replaced]))
    free = shutil.disk_usage(existing).free + held
    if needed > free:
        each = f"{_size_words(weights)} of weights"
        each += "" if checkpoint == weights else f" and {_size_words(optimizer)} of optimizer"
        raise NoRoom(
            f"`output_dir: {arguments.output_dir}` has {_size_words(free)} free, and the run saves at least "
            f"{_size_words(needed)}: the result and, at one time, {kept} "
            f"{'checkpoint' if kept == 1 else 'checkpoints'} of {each}",
            hint="Set `save_total_limit` lower, `save_only_model: true` or `save_strategy: no`, or choose "
            "another `output_dir`.",
        )


def kept_checkpoints(arguments: TrainingArguments, steps: int) -> int:
    """How many checkpoints are there at most at one time; with `save_total_limit` one more, until it is whole."""
    strategy = str(getattr(arguments.save_strategy, "value", arguments.save_strategy))
    if strategy == "no":
        return 0
    if strategy != "steps" or not steps:
        return 1
    every = arguments.save_steps if arguments.save_steps >= 1 else math.ceil(steps * arguments.save_steps)
    saved = math.ceil(steps / max(int(every), 1))
    limit = arguments.save_total_limit
    return min(saved, limit + 1) if limit and limit > 0 else saved


def weight_bytes(module: Any) -> int:
    """Bytes of the weights that are saved: the adapter alone where there is one."""
    adapter = hasattr(module, "peft_config")
    return _bytes(p for p in module.parameters() if p.requires_grad or not adapter)


def optimizer_bytes(module: Any, arguments: TrainingArguments) -> int:
    """Bytes of the optimizer's state, as far as it is known."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    return MOMENTS.get(name, 0) * _bytes(p for p in module.parameters() if p.requires_grad)


def _bytes(parameters: Iterable[Any]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _size_words(count: int) -> str:
    for name, unit in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 2**10:,.1f} KiB"

"""The ten lines before step 1: what is trained on what, how, and where it goes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tkernel.references import is_reference
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.arguments import precision
from tkernel_plugins.training.comparison import first_difference, shapes_in

_LOOKED_AT = 100
"""So many rows of each dataset tell whether it has tools and thoughts."""


def parameter_counts(module: torch.nn.Module) -> tuple[int, int]:
    """Trainable parameters and all of them."""
    counts = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def adapter_words(request: StageRequest) -> str:
    """The adapter in a word or two: `lora rank 8`, `full`."""
    name = str(request.settings.get("finetuning_type") or "lora")
    config = getattr(request.bundle.module, "peft_config", None)
    if not config:
        return name
    first = next(iter(config.values()))
    rank = getattr(first, "r", None)
    return f"{name} rank {rank}" if rank else name


def device_words(args: TrainingArguments) -> str:
    """The device, and of how many."""
    if args.device.type != "cuda":
        return f"{args.device.type}, {torch.get_num_threads()} threads"
    name, seen = torch.cuda.get_device_name(args.device), torch.cuda.device_count()
    unused = f"; {seen - args.world_size} more unused, start with torchrun" if seen > args.world_size else ""
    return f"{args.device} {name}{unused}"


def template_notes(request: StageRequest) -> list[str]:
    """Where the template first differs from the model's own, in conversations such as the first rows are;
    empty if they agree or the model has none."""
    first: list[Mapping[str, Any]] = []
    for loaded in request.train:
        rows = loaded.rows
        if hasattr(rows, "select"):  # a stream is not begun for this
            first += rows.select(range(min(_LOOKED_AT, len(rows))))
    difference = first_difference(request.renderer, request.bundle.tokenizer, shapes_in(first))
    if difference is None:
        return []
    return [f"template {request.renderer.name} differs from the model's own: {difference}"]


class Summary(TrainerCallback):
    """Prints the screen when training begins, when the number of steps is known."""

    def __init__(self, request: StageRequest, data: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.request = request
        self.data = data
        self.notes = notes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print."""
        if not state.is_world_process_zero:
            return
        print("\n".join(self.lines(args, state)), end="\n\n", flush=True)

    def lines(self, args: TrainingArguments, state: TrainerState) -> list[str]:
        """Lines of a word and a text; those about the data came from its preparation."""
        bundle = self.request.bundle
        trained, total = parameter_counts(bundle.module)
        share = 100 * trained / max(total, 1)
        batch, accumulated, devices = (
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
        )
        plural = "device" if devices == 1 else "devices"
        written = self.request.arguments.get("optim")
        optim = written if is_reference(written) else args.optim
        scheduler, optimizer = (getattr(name, "value", name) for name in (args.lr_scheduler_type, optim))
        # transformers gives data of unknown length as many epochs as a number can count.
        whole = state.num_train_epochs
        epochs = f" ({whole} epoch{'' if whole == 1 else 's'})" if whole < sys.maxsize else ""
        resumed = f", going on after step {state.global_step}" if state.global_step else ""
        return [
            f"model      {bundle.facts.name} ({bundle.facts.model_type}, {total:,} parameters)",
            f"trained    {adapter_words(self.request)}: {trained:,} parameters ({share:.2f} %)",
            f"template   {self.request.renderer.name}",
            *self.data,
            f"batch      {batch} x {accumulated} accumulated x {devices} {plural} = {batch * accumulated * devices}",
            f"steps      {state.max_steps}{epochs}, {optimizer}, "
            f"learning rate {args.learning_rate:g} {scheduler}{resumed}",
            f"device     {device_words(args)}; {precision(args, bundle.module)}",
            f"output     {args.output_dir}",
            *(f"note       {note}" for note in self.notes),
        ]

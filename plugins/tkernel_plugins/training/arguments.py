"""From `request.arguments` to a `TrainingArguments` object that this machine can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from transformers import TrainingArguments

from tkernel.config.options import RunOptions
from tkernel.errors import Problem
from tkernel.references import is_reference
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.runs.processes import world
from tkernel_plugins.training.checkpoints import Resume, find_resume
from tkernel_plugins.training.checks import DEFAULTS, FIXED, check_training, trains
from tkernel_plugins.training.errors import TrainingArgumentsError
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.reporting import trackers
from tkernel_plugins.training.room import require_room

RENAMED: Mapping[str, str] = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Names that newer transformers deprecates, where the installed one has the new name."""

PRODUCTS = "64"
"""Matrix products in bfloat16 that oneDNN keeps compiled, on a CPU. A row of one length needs thirty, and hardly any
row has the length of another: the 1,024 that it would keep are found as seldom, at a quarter of a MB each."""


def has_accelerator() -> bool:
    """Whether torch sees a GPU or another accelerator."""
    return torch.accelerator.is_available()


def resume_of(request: StageRequest) -> Resume:
    """The checkpoint that `resume_from_checkpoint` means."""
    wanted = request.arguments.get("resume_from_checkpoint", request.settings.get("resume_from_checkpoint"))
    return find_resume(wanted, Path(str(request.output_dir)))


def build_arguments(
    request: StageRequest, arguments_class: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """The training arguments of this run.

    What the user set, then our defaults (`DEFAULTS`), then what the machine decides: without a GPU
    `use_cpu` is True whatever was written, so that `bf16: true` is bf16 autocast on the CPU. Of several
    GPUs seen by one process the first is used; the others join with torchrun.

    Raises:
        NoRoom: the disk cannot hold what will be saved.
        TrainingArgumentsError: what `check_training` finds, for those who did not plan the run; `fp16` where
            torch sees no accelerator; and what transformers itself refuses.
    """
    known = {field.name for field in fields(arguments_class)}
    values = {
        RENAMED[name] if RENAMED.get(name) in known else name: value
        for name, value in request.arguments.items()
    }
    for name in ("output_dir", "seed", "do_train", "resume_from_checkpoint"):
        values.pop(name, None)
    values = {**DEFAULTS, **values, **FIXED}
    if is_reference(values.get("optim")):
        del values["optim"]  # transformers knows names only; the trainer is given the function
    values["report_to"] = trackers(values["report_to"])
    values["use_cpu"] = bool(values.get("use_cpu")) or not has_accelerator()
    if values["use_cpu"]:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRODUCTS)  # read at the first product
    if world()[1] == 1:
        values.pop("ddp_backend", None)  # one process has nobody to talk to, and transformers refuses it
    bundle = request.bundle
    if hasattr(bundle.module, "peft_config") and bundle.processor is None:
        # Every text goes through all of an adapter, and looking for what a step left out costs a walk of its graph.
        # A picture tower is passed by where a batch has no pictures.
        values.setdefault("ddp_find_unused_parameters", False)
    options = request.options if isinstance(request.options, TrainingOptions) else TrainingOptions()

    no_gpu = None if has_accelerator() else "torch sees none"
    problems = list(check_training(check_request(request), no_gpu))
    if trains(request.arguments) and not request.train and not request.eval:
        problems.append(Problem("there is nothing to train on", key="dataset", hint="Add `dataset: NAME`."))
    if request.output_dir is None:
        hint = "Add `output_dir: out/my-run`."
        problems.append(Problem("`output_dir` is missing", key="output_dir", hint=hint))
    if problems:
        raise TrainingArgumentsError(problems)

    has_eval = bool(request.eval) or bool(getattr(request.options, "val_size", 0))
    only_predicts = bool(values.get("do_predict")) and not trains(request.arguments)
    values["do_eval"] = bool(values.get("do_eval")) or (has_eval and not only_predicts)
    if options.disable_shuffling:
        values["train_sampling_strategy"] = "sequential"
    if options.early_stopping_steps is not None:
        values.setdefault("metric_for_best_model", "eval_loss")
    if str(values.get("metric_for_best_model")).endswith("perplexity"):
        values.setdefault("greater_is_better", False)  # transformers knows that of losses alone
    try:
        arguments = arguments_class(
            output_dir=str(request.output_dir),
            seed=request.seed,
            do_train=trains(request.arguments),
            **values,
        )
    except (ValueError, TypeError) as error:
        raise TrainingArgumentsError([Problem(str(error).strip())]) from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # torch's DataParallel would split each micro-batch and its normalisation
    require_room(request.bundle.module, arguments)
    return arguments


def check_request(request: StageRequest) -> CheckRequest:
    """The stage's request as planning sees it."""
    return CheckRequest(
        options=request.options,
        run=RunOptions(output_dir=None if request.output_dir is None else str(request.output_dir)),
        arguments=request.arguments,
        settings=request.settings,
        facts=request.bundle.facts,
        train=tuple(loaded.entry.name for loaded in request.train),
        eval=tuple(loaded.entry.name for loaded in request.eval),
    )


def precision(arguments: TrainingArguments, module: torch.nn.Module) -> str:
    """The precision of weights and of computation, in words."""
    weights = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
    autocast = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else None
    return " + ".join(weights) + " weights" + (f", {autocast} autocast" if autocast else "")

"""From `request.arguments` to a `TrainingArguments` object that this machine can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tkernel.errors import Problem
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.checkpoints import Resume, find_resume
from tkernel_plugins.training.errors import TrainingArgumentsError
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.reporting import missing_trackers, trackers

DEFAULTS: Mapping[str, Any] = {
    # transformers' own is 500: most small runs would end without a line.
    "logging_steps": 10,
    "report_to": "none",
}
"""Our defaults where they differ from transformers'."""

FIXED: Mapping[str, Any] = {
    # The collator knows which columns the model takes; `origin` and media must reach it.
    "remove_unused_columns": False,
    # A NaN is an error here, see `SupervisedTrainer.compute_loss`.
    "logging_nan_inf_filter": False,
}
"""What the trainer relies on."""

RENAMED: Mapping[str, str] = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Names that newer transformers deprecates, where the installed one has the new name."""


def has_accelerator() -> bool:
    """Whether torch sees a GPU or another accelerator."""
    return torch.accelerator.is_available()


def wants_training(request: StageRequest) -> bool:
    """`do_train`, which is True here unless somebody turned it off."""
    asked = request.arguments.get("do_train", request.settings.get("do_train"))
    return True if asked is None else bool(asked)


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
        TrainingArgumentsError: all conflicts that can be known before data is prepared.
    """
    known = {field.name for field in fields(arguments_class)}
    values = {
        RENAMED[name] if RENAMED.get(name) in known else name: value
        for name, value in request.arguments.items()
    }
    for name in ("output_dir", "seed", "do_train", "resume_from_checkpoint"):
        values.pop(name, None)
    values = {**DEFAULTS, **values, **FIXED}
    values["report_to"] = trackers(values["report_to"])
    values["use_cpu"] = bool(values.get("use_cpu")) or not has_accelerator()
    options = request.options if isinstance(request.options, TrainingOptions) else TrainingOptions()

    problems = _conflicts(request, values, options)
    if problems:
        raise TrainingArgumentsError(problems)

    has_eval = bool(request.eval) or bool(getattr(request.options, "val_size", 0))
    values["do_eval"] = bool(values.get("do_eval")) or has_eval
    if options.disable_shuffling:
        values["train_sampling_strategy"] = "sequential"
    if options.early_stopping_steps is not None:
        values.setdefault("metric_for_best_model", "eval_loss")
    try:
        arguments = arguments_class(
            output_dir=str(request.output_dir), seed=request.seed, do_train=wants_training(request), **values
        )
    except (ValueError, TypeError) as error:
        raise TrainingArgumentsError([Problem(str(error).strip())]) from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # torch's DataParallel would split each micro-batch and its normalisation
    return arguments


def precision(arguments: TrainingArguments, module: torch.nn.Module) -> str:
    """The precision of weights and of computation, in words."""
    weights = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
    autocast = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else None
    return " + ".join(weights) + " weights" + (f", {autocast} autocast" if autocast else "")


def _conflicts(request: StageRequest, values: Mapping[str, Any], options: TrainingOptions) -> list[Problem]:
    """Everything that contradicts something else or this machine, all at once."""
    problems = missing_trackers(values["report_to"])
    if wants_training(request) and not request.train:
        problems.append(
            Problem(
                "there is nothing to train on",
                key="dataset",
                hint="Name a dataset (`dataset: NAME`), or only evaluate (`do_train: false`).",
            )
        )
    has_eval = bool(request.eval) or bool(getattr(request.options, "val_size", 0))
    evaluates = str(values.get("eval_strategy", "no")) not in ("no", "IntervalStrategy.NO")
    if values.get("fp16") and values["use_cpu"]:
        problems.append(
            Problem(
                "`fp16: true` needs a GPU; "
                + ("`use_cpu` is set" if has_accelerator() else "torch sees none"),
                key="fp16",
                hint="Write `bf16: true`, which a CPU can do, or leave both out for fp32.",
            )
        )
    if values.get("fp16") and values.get("bf16"):
        problems.append(Problem("`fp16` and `bf16` are both true", key="fp16", hint="Keep one of the two."))
    if (evaluates or values.get("do_eval")) and not has_eval:
        key = "eval_strategy" if evaluates else "do_eval"
        problems.append(
            Problem(
                f"`{key}: {values[key]}` asks for evaluation and there is nothing to evaluate on",
                key=key,
                hint="Name a held-out set (`eval_dataset: NAME`) or split one off (`val_size: 0.1`).",
            )
        )
    if options.early_stopping_steps is not None and options.early_stopping_steps < 1:
        problems.append(Problem("`early_stopping_steps` must be at least 1", key="early_stopping_steps"))
    if options.early_stopping_steps is not None and not evaluates:
        problems.append(
            Problem(
                "`early_stopping_steps` counts evaluations and `eval_strategy` is `no`",
                key="early_stopping_steps",
                hint="Add `eval_strategy: steps` and `eval_steps: 50`.",
            )
        )
    apart = getattr(request.options, "eval_on_each_dataset", False) and len(request.eval) > 0
    compares = options.early_stopping_steps is not None or values.get("load_best_model_at_end")
    if apart and compares and values.get("metric_for_best_model") is None:
        names = [f"`eval_{loaded.entry.name}_loss`" for loaded in request.eval]
        problems.append(
            Problem(
                "with `eval_on_each_dataset` there is no single loss by which models are compared",
                key="metric_for_best_model",
                hint=f"Set `metric_for_best_model` to one of: {', '.join(names)}.",
            )
        )
    if values.get("max_steps") == 0:
        problems.append(
            Problem(
                "`max_steps: 0` takes no step",
                key="max_steps",
                hint="Leave it out to train `num_train_epochs`, or only evaluate (`do_train: false`).",
            )
        )
    if values.get("deepspeed") and find_spec("deepspeed") is None:
        problems.append(
            Problem("`deepspeed` is not installed", key="deepspeed", hint="Run: pip install deepspeed")
        )
    strategy = values.get("train_sampling_strategy", "random")
    if options.disable_shuffling and strategy not in ("random", "sequential"):
        problems.append(
            Problem(
                f"`disable_shuffling` and `train_sampling_strategy: {strategy}` contradict each other",
                key="disable_shuffling",
                hint="Keep one of the two.",
            )
        )
    if request.output_dir is None:
        problems.append(
            Problem("`output_dir` is missing", key="output_dir", hint="Add `output_dir: out/my-run`.")
        )
    else:
        problems.extend(_unwritable(str(request.output_dir)))
    return problems


def _unwritable(path: str) -> list[Problem]:
    """A problem if `path` cannot become a folder to write into."""
    existing = os.path.abspath(path)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if os.path.isdir(existing) and os.access(existing, os.W_OK):
        return []
    reason = "no permission to write there" if os.path.isdir(existing) else "a file is in the way"
    return [
        Problem(
            f"`output_dir: {path}` cannot be written: {reason} ({existing})",
            key="output_dir",
            hint="Choose another `output_dir`.",
        )
    ]

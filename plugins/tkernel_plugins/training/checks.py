"""What is wrong with a training run, told while it is planned: no torch, no transformers.

Every training stage's `check` ends here. What only torch or transformers can tell is left to
`tkernel_plugins.training.arguments`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean, near_file
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel_plugins.runs.processes import world
from tkernel_plugins.training.checkpoints import unfinished
from tkernel_plugins.training.devices import no_accelerator
from tkernel_plugins.training.joining import check_joining
from tkernel_plugins.training.nested import check_nested
from tkernel_plugins.training.optimisation import check_optimizer, check_schedule
from tkernel_plugins.training.reporting import missing_trackers, trackers
from tkernel_plugins.training.similarity import missing_packages

SPEED = ("_runtime", "_per_second")
"""How the names of metrics end that say how fast an evaluation was."""

Arguments = Mapping[str, Any]

DEFAULTS: Mapping[str, Any] = {
    # transformers' own is 500: most small runs would end without a line.
    "logging_steps": 10,
    "report_to": "none",
}
"""Our defaults where they differ from transformers'."""

FIXED: Mapping[str, Any] = {
    # The collator knows which columns the model takes; `origin` and media must reach it.
    "remove_unused_columns": False,
    # A NaN is an error here, see `StageTrainer.compute_loss`.
    "logging_nan_inf_filter": False,
}
"""What the trainer relies on."""


def check_training(request: CheckRequest, no_gpu: str | None = None) -> Iterator[Problem]:
    """Everything that contradicts something else, this machine or what is installed.

    `no_gpu` is why there is no accelerator, from who has asked torch; without it that is told where it is sure.
    """
    arguments = request.arguments
    yield from _steps(request)
    yield from check_joining(request)
    yield from _evaluation(request)
    yield from _best_model(request)
    yield from _prediction(request)
    yield from _precision(arguments, no_gpu)
    yield from check_nested(arguments)
    yield from check_optimizer(arguments)
    yield from check_schedule(arguments, _strategy(arguments, "eval"))
    yield from missing_trackers(trackers(arguments.get("report_to", "none")))
    yield from _libraries(arguments)
    yield from _hub(arguments)
    yield from _folders(request)


def trains(arguments: Arguments) -> bool:
    """`do_train`, which is true here unless somebody turned it off, or asked for predictions alone."""
    asked = arguments.get("do_train")
    return not arguments.get("do_predict") if asked is None else bool(asked)


def check_metric(request: CheckRequest, *names: str) -> Iterator[Problem]:
    """`metric_for_best_model` has to be something that the stage evaluates: the loss, or one of `names`."""
    given = request.arguments.get("metric_for_best_model")
    if not isinstance(given, str):
        return
    apart = getattr(request.options, "eval_on_each_dataset", False) and request.eval
    sets = [f"eval_{name}_" for name in request.eval] if apart else ["eval_"]
    known = [f"{prefix}{name}" for prefix in sets for name in ("loss", *names)]
    name = f"eval_{given.removeprefix('eval_')}"
    if name not in known and not name.endswith(SPEED):
        message = f"`metric_for_best_model: {given}` is not evaluated by this run"
        hint = did_you_mean(name, known) or f"One of: {', '.join(known)}."
        yield Problem(message, key="metric_for_best_model", hint=hint)


def _steps(request: CheckRequest) -> Iterator[Problem]:
    arguments = request.arguments
    if trains(arguments) and request.eval and not request.train:
        hint = "Name a dataset (`dataset: NAME`), or only evaluate (`do_train: false`)."
        yield Problem("there is nothing to train on", key="dataset", hint=hint)
    if arguments.get("max_steps") == 0:
        hint = "Leave it out to train `num_train_epochs`, or only evaluate (`do_train: false`)."
        yield Problem("`max_steps: 0` takes no step", key="max_steps", hint=hint)
    for key in ("logging_steps", "eval_steps", "save_steps"):
        value = arguments.get(key)
        if value is not None and value > 1 and value != int(value):
            message = f"`{key}: {value}` is neither a whole number nor a share of all steps below 1"
            yield Problem(message, key=key)
    for key, value in FIXED.items():
        if arguments.get(key, value) != value:
            message = f"`{key}` is always {str(value).lower()} here"
            yield Problem(message, key=key, hint="Take the line out.")
    strategy = arguments.get("train_sampling_strategy", "random")
    if getattr(request.options, "disable_shuffling", False) and strategy not in ("random", "sequential"):
        message = f"`disable_shuffling` and `train_sampling_strategy: {strategy}` contradict each other"
        yield Problem(message, key="disable_shuffling", hint="Keep one of the two.")
    if arguments.get("dataloader_prefetch_factor") and not arguments.get("dataloader_num_workers"):
        key, message = "dataloader_prefetch_factor", "is for batches that `dataloader_num_workers` make"
        yield Problem(f"`{key}` {message}, and there are none", key=key, hint="Take one or more workers.")


def _evaluation(request: CheckRequest) -> Iterator[Problem]:
    arguments = request.arguments
    splits = bool(getattr(request.options, "val_size", 0))
    if splits and request.eval:
        message = "`val_size` splits evaluation data off the training data, and `eval_dataset` is other data"
        yield Problem(message, key="val_size", hint="Leave one of the two out.")
    evaluates = _strategy(arguments, "eval") != "no"
    asks = {"eval_strategy": _strategy(arguments, "eval")} if evaluates else {}
    asks |= {key: "true" for key in ("do_eval", "eval_on_start") if arguments.get(key)}
    if asks and not (splits or request.eval):
        key = next(iter(asks))
        yield Problem(
            f"`{key}: {asks[key]}` asks for evaluation and there is nothing to evaluate on",
            key=key,
            hint="Name a held-out set (`eval_dataset: NAME`) or split one off (`val_size: 0.1`).",
        )
    patience = getattr(request.options, "early_stopping_steps", None)
    if patience is not None and not evaluates:
        message = "`early_stopping_steps` counts evaluations and `eval_strategy` is `no`"
        hint = "Add `eval_strategy: steps` and `eval_steps: 50`."
        yield Problem(message, key="early_stopping_steps", hint=hint)
    apart = getattr(request.options, "eval_on_each_dataset", False) and request.eval
    compares = patience is not None or arguments.get("load_best_model_at_end")
    if apart and compares and arguments.get("metric_for_best_model") is None:
        names = ", ".join(f"`eval_{name}_loss`" for name in request.eval)
        yield Problem(
            "with `eval_on_each_dataset` there is no single loss by which models are compared",
            key="metric_for_best_model",
            hint=f"Set `metric_for_best_model` to one of: {names}.",
        )


def _prediction(request: CheckRequest) -> Iterator[Problem]:
    wanted, generates = (
        request.arguments.get("do_predict"),
        getattr(request.options, "predict_with_generate", None),
    )
    if generates is None:
        return  # a stage that predicts in another way, or refuses to, says so itself
    if wanted and not generates:
        hint = "Add `predict_with_generate: true`; `do_eval: true` reports the loss."
        yield Problem("`do_predict` writes replies, and none are generated", key="do_predict", hint=hint)
    if generates and not wanted:
        message = "`predict_with_generate` says how `do_predict` predicts, and it is not set"
        yield Problem(message, key="predict_with_generate", hint="Add `do_predict: true`.")
    if not (wanted and generates):
        return
    yield from missing_packages("predict_with_generate")
    if not (request.eval or getattr(request.options, "val_size", 0)):
        hint = "Name a held-out set (`eval_dataset: NAME`) or split one off (`val_size: 0.1`)."
        yield Problem("there is nothing to predict", key="do_predict", hint=hint)
    if world()[1] > 1:
        hint = "Predict with `do_train: false` in one process, from the result of the training."
        yield Problem("`do_predict` runs in one process", key="do_predict", hint=hint)


def _best_model(request: CheckRequest) -> Iterator[Problem]:
    """transformers' rule: the best model is one of the saved ones, so each saved one must be evaluated."""
    arguments, key = request.arguments, "load_best_model_at_end"
    metric = str(arguments.get("metric_for_best_model")).removeprefix("eval_")
    if metric == "accuracy" and getattr(request.options, "compute_accuracy", None) is False:
        message = "`metric_for_best_model` is the accuracy, which is not computed"
        yield Problem(message, key="metric_for_best_model", hint="Add `compute_accuracy: true`.")
    saves, evaluates = _strategy(arguments, "save"), _strategy(arguments, "eval")
    if saves == "best" and arguments.get("metric_for_best_model") is None and not arguments.get(key):
        hint = "Add `metric_for_best_model: eval_loss`."
        yield Problem(
            "`save_strategy: best` needs a metric to compare models by", key="save_strategy", hint=hint
        )
    if not arguments.get(key) or saves == "best":
        return
    if saves != evaluates:
        message = f"`{key}` needs the save and eval strategy to match: they are {saves!r} and {evaluates!r}"
        yield Problem(message, key=key, hint=f"Set `eval_strategy: {saves}`, or leave `{key}` out.")
    elif saves == "steps":
        save, evaluate = arguments.get("save_steps", 500), arguments.get("eval_steps") or _logging(arguments)
        shares = [value for value in (save, evaluate) if value < 1]
        unit = 1_000_000 if len(shares) == 2 else 1  # shares are compared as whole millionths
        if len(shares) == 1 or round(save * unit) % max(round(evaluate * unit), 1):
            message = f"`{key}` needs `save_steps` to be a multiple of `eval_steps`: they are {save:g} and {evaluate:g}"
            yield Problem(message, key=key, hint=f"Set `save_steps: {evaluate:g}`.")


def _precision(arguments: Arguments, no_gpu: str | None) -> Iterator[Problem]:
    for half, brain in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if arguments.get(half) and arguments.get(brain):
            yield Problem(f"`{half}` and `{brain}` are both true", key=half, hint="Keep one of the two.")
    reason = "`use_cpu` is set" if arguments.get("use_cpu") else no_gpu or no_accelerator()
    if reason and arguments.get("fp16"):
        hint = "Write `bf16: true`, which a CPU can do, or leave both out for fp32."
        yield Problem(f"`fp16: true` needs a GPU; {reason}", key="fp16", hint=hint)
    if reason and arguments.get("tf32"):
        yield Problem(f"`tf32: true` needs a GPU; {reason}", key="tf32", hint="Leave it out.")


def _libraries(arguments: Arguments) -> Iterator[Problem]:
    if arguments.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        message = "`use_liger_kernel: true` needs liger-kernel, which is not installed"
        yield Problem(message, key="use_liger_kernel", hint="Run: pip install liger-kernel")
    if arguments.get("fsdp") and "LOCAL_RANK" not in os.environ:
        message = "`fsdp` shards a model over the processes of a run, and this one has no others"
        hint = "Start it with `torchrun --nproc-per-node N -m tkernel run FILE`, or leave `fsdp` out."
        yield Problem(message, key="fsdp", hint=hint)
    wanted = arguments.get("deepspeed")
    if not wanted:
        return
    if find_spec("deepspeed") is None:
        message = "`deepspeed` is not installed"
        yield Problem(message, key="deepspeed", hint="Run: pip install deepspeed")
    path = Path(str(wanted)).expanduser()
    if isinstance(wanted, str) and not wanted.startswith("{") and not path.is_file():
        yield Problem(f"there is no DeepSpeed configuration {wanted}", key="deepspeed", hint=near_file(path))
    if arguments.get("fsdp"):
        yield Problem("`deepspeed` and `fsdp` are both set", key="fsdp", hint="Keep one of the two.")


def _hub(arguments: Arguments) -> Iterator[Problem]:
    if not arguments.get("push_to_hub"):
        return
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        message = "`push_to_hub: true` needs the hub, and HF_HUB_OFFLINE is set"
        yield Problem(message, key="push_to_hub", hint="Unset it, or leave `push_to_hub` out.")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    file = Path(os.environ.get("HF_TOKEN_PATH", os.path.join(home, "token"))).expanduser()
    named = (arguments.get("hub_token"), *map(os.environ.get, ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")))
    if not any(named) and not file.is_file():
        message = "`push_to_hub: true` needs a token that may write, and there is none"
        yield Problem(message, key="push_to_hub", hint="Run: hf auth login, or set `hub_token`.")


def _folders(request: CheckRequest) -> Iterator[Problem]:
    wanted = request.arguments.get("resume_from_checkpoint")
    names_one = isinstance(wanted, str) and wanted.lower() not in ("", "true", "yes", "false", "no")
    if names_one and (reason := unfinished(Path(wanted).expanduser())):
        yield Problem(
            f"`resume_from_checkpoint: {wanted}` is no checkpoint: {reason}",
            key="resume_from_checkpoint",
            hint="Write `resume_from_checkpoint: true` to take the newest whole one in `output_dir`.",
        )
    if request.run.output_dir is None:
        return
    existing = Path(request.run.output_dir).expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "no permission to write there" if existing.is_dir() else "a file is in the way"
        message = f"`output_dir: {request.run.output_dir}` cannot be written: {reason} ({existing})"
        yield Problem(message, key="output_dir", hint="Choose another `output_dir`.")


def _strategy(arguments: Arguments, what: str) -> str:
    """`eval_strategy` or `save_strategy` as a word, also where an enum was given from Python."""
    default = "steps" if what == "save" else "no"
    value = arguments.get(f"{what}_strategy", default)
    return str(getattr(value, "value", value))


def _logging(arguments: Arguments) -> float:
    """`logging_steps`, which is also how often is evaluated where nothing else is said."""
    steps: float = arguments.get("logging_steps", DEFAULTS["logging_steps"])
    return steps

"""Optimizers and schedules: whether what they need is there, told from names and from source."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import Problem
from tkernel.references import is_reference, load_function
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.nested import enum_values, mapping_of, statements

PACKAGES: Mapping[str, tuple[str, str]] = {
    "adalomo": ("lomo_optim", "lomo-optim"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_torch_npu_fused": ("torch_npu", "torch-npu"),
    "adamw_torch_xla": ("torch_xla", "torch-xla"),
    "apollo_": ("apollo_torch", "apollo-torch"),
    "galore_": ("galore_torch", "galore-torch"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "schedule_free_": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
    **dict.fromkeys(("paged_", "ademamix", "lion_", "rmsprop_"), ("bitsandbytes", "bitsandbytes")),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit"), ("bitsandbytes", "bitsandbytes")),
}
"""The beginning of an optimizer's name -> the module that it needs, and what pip calls it."""

PROJECTED = ("galore_", "apollo_")
"""Optimizers of low rank, which have to be told what they project."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Schedule -> the entries of `lr_scheduler_kwargs` of which it needs one."""

GIVEN = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
"""Parameters of a schedule that the trainer gives."""


def check_optimizer(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the package behind `optim` is installed, and what it needs besides is set."""
    optim = _word(arguments.get("optim"))
    if is_reference(optim):
        return  # found by who bound it
    for start, (module, package) in PACKAGES.items():
        if optim.startswith(start) and find_spec(module) is None:
            message = f"`optim: {optim}` needs {package}, which is not installed"
            yield Problem(message, key="optim", hint=f"Run: pip install {package}")
            break
    for item in str(arguments.get("optim_args") or "").replace(" ", "").split(","):
        if item and item.count("=") != 1:
            hint = "Write them as `name=value,name=value`."
            yield Problem(f"`optim_args`: {item!r} sets nothing", key="optim_args", hint=hint)
    if not optim.startswith(PROJECTED):
        return
    if arguments.get("optim_target_modules") is None:
        message = f"`optim: {optim}` needs to know what it projects"
        yield Problem(message, key="optim", hint="Add `optim_target_modules: all-linear`.")
    if optim.endswith("_layerwise") and arguments.get("gradient_accumulation_steps", 1) > 1:
        message = f"`optim: {optim}` steps in every backward pass, and cannot accumulate gradients"
        yield Problem(message, key="gradient_accumulation_steps", hint="Leave it out.")


def optimizer_of(request: StageRequest) -> Callable[..., Any] | None:
    """The function of model and arguments that makes the optimizer: `optim: pkg.mod:fn`, or an extension's.

    Raises:
        SlotError: both are there.
    """
    optim = request.arguments.get("optim")
    if is_reference(optim):
        request.slots.put("optimizer", load_function(str(optim)), by=f"optim: {optim}")
    make: Callable[..., Any] | None = request.slots.take("optimizer")
    return make


def check_schedule(arguments: Mapping[str, Any], evaluates: str) -> Iterator[Problem]:
    """Whether `lr_scheduler_type` has what it needs in `lr_scheduler_kwargs`, and nothing else is there."""
    name = _word(arguments.get("lr_scheduler_type", "linear"))
    if name in ("reduce_lr_on_plateau", "greedy") and evaluates == "no":
        message = f"`lr_scheduler_type: {name}` follows the evaluation and `eval_strategy` is `no`"
        yield Problem(message, key="lr_scheduler_type", hint="Add `eval_strategy: steps`.")
    set_ = mapping_of(arguments, "lr_scheduler_kwargs") or {}
    needed = NEEDED.get(name, ())
    if needed and len(set_.keys() & needed) != 1:
        message = f"`lr_scheduler_type: {name}` needs {' or '.join(needed)}"
        message += ", one of the two" if len(needed) > 1 else ""
        hint = f"Add `lr_scheduler_kwargs: {{{needed[-1]}: ...}}`."
        yield Problem(message, key="lr_scheduler_type", hint=hint)
    known = _parameters().get(name)
    for key in () if known is None else set_.keys() - known:
        listed = f"It takes: {', '.join(sorted(known))}." if known else f"`{name}` takes none."
        hint = did_you_mean(key, known) or listed
        message = f"`lr_scheduler_type: {name}` has no parameter {key!r}"
        yield Problem(message, key="lr_scheduler_kwargs", hint=hint)


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


@cache
def _parameters() -> Mapping[str, frozenset[str]]:
    """Schedule -> the parameters that `lr_scheduler_kwargs` may set, read from transformers' source.

    Those that take any keyword are left out.
    """
    functions, table = {}, None
    for node in statements("transformers.optimization"):
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node.args
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPE_TO_SCHEDULER_FUNCTION":
            table = node.value
    found = {}
    if isinstance(table, ast.Dict):
        values = enum_values("transformers.trainer_utils", "SchedulerType")
        for key, function in zip(table.keys, table.values, strict=True):
            name = values.get(ast.unparse(key).rpartition(".")[2]) if key else None
            signature = functions.get(ast.unparse(function))
            if name is not None and signature is not None and signature.kwarg is None:
                names = {argument.arg for argument in (*signature.args, *signature.kwonlyargs)}
                found[name] = frozenset(names - GIVEN)
    # It gets nothing but the warmup, whatever else it declares.
    return found | {"constant": frozenset(), "constant_with_warmup": frozenset()}

"""Training arguments as keys of a run: their types, and the bounds that transformers does not check."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Literal, Union

from tkernel.config.bind import Key
from tkernel.errors import MissingRequirement
from tkernel_plugins.keys.training_arguments import read_arguments

LARGEST = 2**31 - 1
"""Of whole numbers that count steps, samples or processes; more is a mistake, and overflows somewhere."""

RANGES: Mapping[str, Mapping[str, Any]] = {
    "adam_beta1": {"ge": 0, "lt": 1},
    "adam_beta2": {"ge": 0, "lt": 1},
    "adam_epsilon": {"gt": 0},
    "data_seed": {"ge": 0, "le": 2**32 - 1},
    "dataloader_num_workers": {"ge": 0, "le": LARGEST},
    "dataloader_prefetch_factor": {"ge": 1, "le": LARGEST},
    "ddp_timeout": {"gt": 0, "le": LARGEST},
    "eval_accumulation_steps": {"ge": 1, "le": LARGEST},
    "eval_delay": {"ge": 0},
    "eval_steps": {"gt": 0},
    "gradient_accumulation_steps": {"ge": 1, "le": LARGEST},
    "label_smoothing_factor": {"ge": 0, "le": 1},
    "learning_rate": {"ge": 0},
    "logging_steps": {"gt": 0},
    "max_grad_norm": {"ge": 0},
    "max_steps": {"ge": -1, "le": LARGEST},
    "neftune_noise_alpha": {"ge": 0},
    "num_train_epochs": {"gt": 0, "le": LARGEST},
    "optim": {"function": True},
    "per_device_eval_batch_size": {"ge": 1, "le": LARGEST},
    "per_device_train_batch_size": {"ge": 1, "le": LARGEST},
    "save_steps": {"gt": 0},
    "save_total_limit": {"ge": 1, "le": LARGEST},
    "torch_empty_cache_steps": {"ge": 1},
    "warmup_steps": {"ge": 0},
    "weight_decay": {"ge": 0},
}
"""Bounds that training arguments do not declare themselves, and which of them may name a function."""

TYPES: Mapping[str, Any] = {"resume_from_checkpoint": bool | str | None}
"""Types that are wider than training arguments declare: true means the newest checkpoint."""

USUAL = "transformers.training_args:TrainingArguments"
"""What most stages have."""

_BUILTINS = {"bool": bool, "int": int, "float": float, "str": str, "dict": dict, "list": list, "Any": Any}


def training_arguments(target: str | None) -> dict[str, Key]:
    """The keys that the class `target` (`module:Class`) declares.

    None is a run without a stage: a misspelt one does not make every training argument unknown.

    Raises:
        MissingRequirement: the library that declares them is not installed; no key could be judged without it.
    """
    try:
        arguments = read_arguments(target or USUAL)
    except MissingRequirement:
        if target is None:
            return {}
        raise
    package = arguments.target.partition(".")[0]
    keys = {}
    for item in arguments.fields.values():
        annotation = annotation_of(item.annotation, unknown=str if item.choices else Any)
        annotation = TYPES.get(item.name, annotation)
        if item.default == "None":
            annotation = annotation | None if annotation is not Any else Any
        bounds, default = RANGES.get(item.name, {}), item.default or ""
        keys[item.name] = Key(item.name, arguments.target, package, annotation, default, bounds, item.choices)
    return keys


def annotation_of(text: str, unknown: Any = Any) -> Any:
    """The type that an annotation in foreign source means; a class of its own packages is `unknown`."""
    return _evaluate(ast.parse(text, mode="eval").body, unknown)


def _evaluate(node: ast.expr, unknown: Any) -> Any:
    if isinstance(node, ast.BinOp):
        return Union[_evaluate(node.left, unknown), _evaluate(node.right, unknown)]  # noqa: UP007
    if isinstance(node, ast.Constant):
        return type(None) if node.value is None else unknown
    if not isinstance(node, ast.Subscript):
        return _BUILTINS.get(ast.unparse(node), unknown)
    name = ast.unparse(node.value).rpartition(".")[2]
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(item) for item in inner)]
    if name in ("Optional", "Union"):
        members = [_evaluate(item, unknown) for item in inner] + [None] * (name == "Optional")
        return Union[tuple(members)]  # noqa: UP007
    if name in ("list", "List", "Sequence"):
        return list[_evaluate(inner[0], unknown)]  # type: ignore[misc]
    return dict if name in ("dict", "Dict", "Mapping") else Any

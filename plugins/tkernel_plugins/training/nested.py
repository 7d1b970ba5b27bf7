"""Training arguments that are mappings or lists of words: JSON text, files, and the names in them.

transformers looks at them when the model is loaded; here their types, files and names are checked while planning.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean, near_file
from tkernel.errors import Problem
from tkernel.module_file import file_of
from tkernel_plugins.keys.syntax import statements_of
from tkernel_plugins.keys.training_arguments import read_arguments

KWARGS = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs")
"""Mappings, or JSON text of one."""

FILES = ("accelerator_config", "fsdp_config")
"""The same, or the path of a JSON file."""

WORDS = {
    "debug": ("transformers.debug_utils", "DebugOption"),
    "fsdp": ("transformers.trainer_utils", "FSDPOption"),
}
"""Words with spaces between them -> the enum that lists them."""

COMPILERS = ("accelerate.utils.dataclasses", "DynamoBackend")
"""What `torch_compile_backend` may be, in capitals or not."""

ACCELERATOR = "transformers.trainer_pt_utils:AcceleratorConfig"


def check_nested(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """What is no mapping, no file, or has a name that nobody knows."""
    for key in (*KWARGS, *FILES):
        problem = _problem_of(key, arguments.get(key))
        if problem is not None:
            yield problem
        elif key == "accelerator_config" and (given := mapping_of(arguments, key)):
            known = read_arguments(ACCELERATOR).fields
            for name in given.keys() - known:
                hint = did_you_mean(name, known) or f"It takes: {', '.join(known)}."
                yield Problem(f"`{key}` has no entry {name!r}", key=key, hint=hint)
    if isinstance(arguments.get("parallelism_config"), str):
        message = "`parallelism_config` is an object, which only Python code can give"
        yield Problem(message, key="parallelism_config", hint="Take the line out.")
    yield from _compiler(arguments)
    for key, (module, enum) in WORDS.items():
        known = enum_values(module, enum).values()
        value = arguments.get(key)
        for word in value.split() if isinstance(value, str) and known else ():
            if word not in known and word.lower() not in ("true", "false"):
                hint = did_you_mean(word, known) or f"It takes: {', '.join(known)}."
                yield Problem(f"`{key}` does not know {word!r}", key=key, hint=hint)


def _compiler(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """`torch.compile`'s words: the first training step would be the first to look at them."""
    backend = arguments.get("torch_compile_backend")
    words = {"torch_compile_backend": [value.lower() for value in enum_values(*COMPILERS).values()]}
    if backend is None or str(backend).lower() == "inductor":
        words["torch_compile_mode"] = _modes()
    for key, known in words.items():
        value = arguments.get(key)
        if isinstance(value, str) and known and (value.lower() if "backend" in key else value) not in known:
            hint = did_you_mean(value, known) or f"It takes: {', '.join(known)}."
            yield Problem(f"`{key}` does not know {value!r}", key=key, hint=hint)


@cache
def _modes() -> list[str]:
    """The modes of the installed inductor, from the table in its source; none where it is written otherwise."""
    functions = [node for node in statements("torch._inductor") if isinstance(node, ast.FunctionDef)]
    (source, *_) = [node for node in functions if node.name == "list_mode_options"] or [ast.Pass()]
    tables = [node for node in ast.walk(source) if isinstance(node, ast.Dict)]
    keys = tables[0].keys if tables else []
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def mapping_of(arguments: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The mapping under `key`, written as one or as JSON text; None if it is something else."""
    value = arguments.get(key)
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    return value if isinstance(value, Mapping) else None


@cache
def enum_values(module: str, name: str) -> Mapping[str, str]:
    """Members of an enum of text -> their values, read from its source."""
    classes = [node for node in statements(module) if isinstance(node, ast.ClassDef)]
    body = next((node.body for node in classes if node.name == name), [])
    return {
        ast.unparse(item.targets[0]): str(item.value.value)
        for item in body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
    }


def statements(module: str) -> list[ast.stmt]:
    """The statements of an installed module; none where it is not there."""
    file = file_of(module)
    return statements_of(file) if file is not None else []


def _problem_of(key: str, value: Any) -> Problem | None:
    if value is None or not isinstance(value, str):
        return None  # types are checked by who binds
    if value.startswith("{"):
        return _not_json(key, value, key)
    if key in KWARGS:
        message = f"`{key}` wants a mapping, not {value}"
        return Problem(message, key=key, hint=f"Write `{key}: {{name: value}}`.")
    path = Path(value)
    if not path.is_file():
        return Problem(f"`{key}`: there is no file {value}", key=key, hint=near_file(path))
    return _not_json(key, path.read_text("utf-8", errors="replace"), value)


def _not_json(key: str, text: str, place: str) -> Problem | None:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem(f"{place} is not JSON: {error}", key=key)
    return None if isinstance(found, dict) else Problem(f"{place} holds no JSON object", key=key)

"""Trackers that the logs of a run are sent to, `report_to`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import Problem
from tkernel.module_file import file_of
from tkernel_plugins.keys.syntax import statements_of

EXTRAS = ("tensorboard", "wandb")
"""Trackers that have an extra of their own."""

MODULES: Mapping[str, tuple[str, ...]] = {
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "kubeflow": (),  # a service, found by its address
    "tensorboard": ("tensorboard", "tensorboardX"),
}
"""Tracker -> the modules of which it needs one, where it is not the one of its own name."""


def trackers(written: Any) -> list[str]:
    """`report_to` as a list: it may be one, and names with commas between them."""
    names = written.split(",") if isinstance(written, str) else written or ["none"]
    return [str(name).strip() for name in names]


def missing_trackers(names: Sequence[str]) -> list[Problem]:
    """A problem for each of `names` that transformers does not know, or whose package is not installed."""
    wanted = [name for name in names if name not in ("all", "none")]
    known = (*_known(), "all", "none") if wanted else ()
    problems = []
    if len(names) > 1 and len(wanted) < len(names):
        hint = "Write them alone, or name each tracker."
        problems.append(Problem("`report_to`: all and none are no trackers", key="report_to", hint=hint))
    for name in wanted:
        modules = MODULES.get(name, (name,))
        if name not in known:
            hint = did_you_mean(name, known) or f"It takes: {', '.join(sorted(known))}."
            problems.append(Problem(f"`report_to: {name}` is no tracker", key="report_to", hint=hint))
        elif modules and not any(find_spec(module) for module in modules):
            package = f"'tkernel[{name}]'" if name in EXTRAS else name.replace("_", "-")
            message = f"`report_to: {name}` needs {name}, which is not installed"
            problems.append(Problem(message, key="report_to", hint=f"Run: pip install {package}"))
    return problems


def _known() -> list[str]:
    """The trackers of the installed transformers, read from its source."""
    file = file_of("transformers.integrations.integration_utils")
    for node in statements_of(file) if file else []:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK":
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return []

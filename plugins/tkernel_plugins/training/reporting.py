"""Trackers that the logs of a run are sent to, `report_to`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import Problem

EXTRAS = ("tensorboard", "wandb")
"""Trackers that have an extra of their own."""


def trackers(written: Any) -> list[str]:
    """`report_to` as a list: it may be one, and names with commas between them."""
    names = written.split(",") if isinstance(written, str) else written or ["none"]
    return [str(name).strip() for name in names]


def missing_trackers(names: Sequence[str]) -> list[Problem]:
    """A problem for each of `names` that transformers does not know, or whose package is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    known = (*INTEGRATION_TO_CALLBACK, "all", "none")
    # Whether Flyte is there, transformers says only when it is used.
    usable = {*get_available_reporting_integrations(), "all", "none", "flyte"}
    problems = []
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"It takes: {', '.join(sorted(known))}."
            problems.append(Problem(f"`report_to: {name}` is no tracker", key="report_to", hint=hint))
        elif name not in usable:
            package = f"'tkernel[{name}]'" if name in EXTRAS else name.replace("_", "-")
            message = f"`report_to: {name}` needs {name}, which is not installed"
            problems.append(Problem(message, key="report_to", hint=f"Run: pip install {package}"))
    return problems

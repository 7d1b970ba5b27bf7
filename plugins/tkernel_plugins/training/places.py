"""The samples that an error about numbers names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tkernel_plugins.training.errors import NonFiniteLoss

SHOWN = 16
"""Samples that a message names; a packed row may hold hundreds."""

LOWER = (
    "Look at these rows; if they are sound, the weights diverged before: lower `learning_rate`, or use `bf16` "
    "instead of `fp16`. The checkpoints in `output_dir` are of steps before."
)


def non_finite_loss(loss: float, step: int, origin: Sequence[Any], *, training: bool) -> NonFiniteLoss:
    """The error about a loss; `origin` are the places of the micro-batch's samples."""
    when = f"in step {step}" if training else f"in the evaluation after step {step - 1}"
    return NonFiniteLoss(f"the loss is {loss} {when}; the micro-batch holds {places(origin)}", hint=LOWER)


def non_finite_weight(name: str, step: int, origin: Sequence[Any]) -> NonFiniteLoss:
    """The error about a weight; `origin` are the places of the step's samples."""
    return NonFiniteLoss(
        f"{name} is not finite after step {step}, which learned {places(origin)}", hint=LOWER
    )


def places(origin: Sequence[Any]) -> str:
    """The first places in words."""
    where = ", ".join(_place(o) for o in origin[:SHOWN]) or "samples whose origin is unknown"
    return where + (f" and {len(origin) - SHOWN} more" if len(origin) > SHOWN else "")


def _place(origin: Any) -> str:
    if not isinstance(origin, Mapping):
        return str(origin)
    line = origin.get("line")
    return f"{origin['file']}:{line}" if line is not None else f"{origin['file']} row {origin['row']}"

"""The keys of next-token prediction that say what the loss of a token is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tkernel.errors import Problem
from tkernel.types.check import CheckRequest

if TYPE_CHECKING:
    from tkernel_plugins.training.losses import Objective

KINDS = ("dft", "asft", "eaft")


@dataclass(frozen=True)
class ObjectiveOptions:
    """The loss of a token, by default its cross entropy; the formulas are in `losses.Objective`."""

    use_dft_loss: bool = False
    """Weigh each token with its own probability (DFT)."""
    use_asft_loss: bool = False
    """DFT, anchored to the model that training starts from (ASFT)."""
    asft_alpha: float = field(default=0.1, metadata={"ge": 0})
    """Weight of the divergence from that model."""
    use_eaft_loss: bool = False
    """Weigh each token with the entropy of what the model expected (EAFT)."""
    eaft_alpha: float = field(default=1.0, metadata={"ge": 0})
    """Power of the entropy; 0 gives every token the same weight."""


def check_objective(request: CheckRequest) -> Iterator[Problem]:
    """Losses that exclude each other, and settings of a loss that is not used."""
    options = request.options
    if not isinstance(options, ObjectiveOptions):
        return
    used = [key for kind in KINDS if getattr(options, key := f"use_{kind}_loss")]
    if len(used) > 1:
        yield Problem(
            f"`{used[0]}` and `{used[1]}` are two losses of the same tokens",
            key=used[1],
            hint="Keep one of the two.",
        )
    if used and request.arguments.get("label_smoothing_factor"):
        yield Problem(
            f"`label_smoothing_factor` smooths the cross entropy, and `{used[0]}` is another loss",
            key="label_smoothing_factor",
            hint="Leave one of the two out.",
        )
    for kind in ("asft", "eaft"):
        key, default = f"{kind}_alpha", getattr(ObjectiveOptions, f"{kind}_alpha")
        if getattr(options, key) != default and f"use_{kind}_loss" not in used:
            hint = f"Add `use_{kind}_loss: true`, or leave it out."
            yield Problem(f"`{key}` is for a loss that is not used", key=key, hint=hint)


def objective_of(options: Any, smoothing: float = 0.0) -> Objective:
    """The loss that the options name."""
    from tkernel_plugins.training.losses import Objective

    if options.use_dft_loss:
        return Objective("dft")
    if options.use_asft_loss:
        return Objective("asft", options.asft_alpha)
    if options.use_eaft_loss:
        return Objective("eaft", options.eaft_alpha)
    return Objective(smoothing=smoothing)

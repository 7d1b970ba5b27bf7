"""Which parts of a model are fused, found out by trying each on random input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tkernel_plugins.training.fused import lora, norm

TOLERANCE = 1e-4
"""Largest difference between a part and its replacement, as a share of the largest value; both in float32."""

POSITIONS = 5
"""Length of the random input."""


@dataclass
class Fused:
    """Parts of a model that were replaced, by kind; `undo` puts PEFT's and transformers' own back."""

    counts: dict[str, int] = field(default_factory=dict)
    modules: list[Any] = field(default_factory=list)

    def undo(self) -> None:
        """Leave the model as it was."""
        for module in self.modules:
            module.__dict__.pop("forward", None)
        self.modules.clear()


def fuse(model: Any) -> Fused:
    """Replace the norms, gated activations and adapted linear layers of `model` whose replacement agrees.

    One module of each class and shape is tried, with its own weights.
    """
    fused = Fused()
    verdicts: dict[Any, bool] = {}
    with torch.random.fork_rng(devices=[]):
        for module in model.modules():
            for kind, (applies, replace) in _KINDS.items():
                if "forward" in module.__dict__ or not applies(module):
                    continue
                key = (kind, type(module), *(tuple(p.shape) for p in module.parameters()))
                if key not in verdicts:
                    verdicts[key] = _agrees(module, replace)
                if verdicts[key]:
                    replace(module)
                    fused.modules.append(module)
                    fused.counts[kind] = fused.counts.get(kind, 0) + 1
    return fused


_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], None]]] = {
    "adapted linear layers": (lora.fusible, lora.fuse),
    "norms": (norm.looks_like_rms_norm, norm.fuse_norm),
    "gated activations": (norm.looks_like_gated_mlp, norm.fuse_mlp),
}


def _agrees(module: Any, replace: Callable[[Any], None]) -> bool:
    """Whether output and gradient of the input are those of the module as it is."""
    first = next(module.parameters())
    if first.is_meta or hasattr(first, "ds_id") or not first.is_floating_point():
        return False
    width = _width(module)
    x = torch.randn(2, POSITIONS, width, device=first.device, dtype=torch.float32)
    gradient: torch.Tensor | None = None
    results = []
    for replaced in (False, True):
        if replaced:
            replace(module)
        try:
            given = x.clone().requires_grad_()
            with torch.autocast(first.device.type, enabled=False):
                output = module(given.to(first.dtype) if first.dtype != torch.float32 else given)
            if gradient is None:
                gradient = torch.randn_like(output)
            (of_x,) = torch.autograd.grad(output, given, gradient)
        except (TypeError, RuntimeError):
            return False
        finally:
            module.__dict__.pop("forward", None)
        results.append((output.detach().float(), of_x.float()))
    tolerance = TOLERANCE if first.dtype == torch.float32 else 2e-2
    return all(
        bool((one - other).abs().max() <= tolerance * one.abs().max())
        for one, other in zip(*results, strict=True)
    )


def _width(module: Any) -> int:
    layer = getattr(module, "gate_proj", module)
    layer = getattr(layer, "base_layer", layer)
    return int(layer.weight.shape[-1])

"""RMSNorm and the gated activation of an MLP, each with one tensor kept for the gradient instead of several."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F


class RmsNorm(torch.autograd.Function):
    """`x / rms(x) * weight` over the last dimension, computed in float32 (Zhang and Sennrich 2019).

    Shapes: x (..., width), weight (width,).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(torch.promote_types(x.dtype, weight.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide, gradient = x.float(), gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * wide * inverse).flatten(0, -2).sum(0).to(weight.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            scaled = gradient * weight
            along = torch.linalg.vecdot(scaled, wide).unsqueeze(-1)
            along.mul_(inverse.pow(3)).div_(x.shape[-1])
            of_x = scaled.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype)
        return of_x, of_weight, None


class SiluTimes(torch.autograd.Function):
    """`silu(gate) * up`, two tensors of one shape (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        of_up = F.silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), of_up


def looks_like_rms_norm(module: Any) -> bool:
    """By name and by what it holds; whether it computes the same is tried."""
    weight, epsilon = getattr(module, "weight", None), _epsilon(module)
    named = type(module).__name__.endswith("RMSNorm")
    return named and epsilon is not None and isinstance(weight, torch.Tensor) and weight.ndim == 1


def fuse_norm(module: Any) -> None:
    """Make an RMSNorm compute in one operation."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = RmsNorm.apply(x, self.weight, _epsilon(self))
        return result

    module.forward = MethodType(forward, module)


def looks_like_gated_mlp(module: Any) -> bool:
    """Three projections and SiLU; whether it computes the same is tried."""
    parts = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))
    return parts and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def fuse_mlp(module: Any) -> None:
    """Make a gated MLP multiply and activate in one operation."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(SiluTimes.apply(self.gate_proj(x), self.up_proj(x)))
        return result

    module.forward = MethodType(forward, module)


def _epsilon(module: Any) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None

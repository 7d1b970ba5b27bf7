"""A linear layer with a LoRA adapter as one operation.

PEFT computes `W x`, then `B (A x)`, scales it and adds the two: four passes over the output. Here the second
product is accumulated into the first, and nothing but `x` and the thin `A x` is kept for the gradient.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

from tkernel_plugins.training.fused.precision import computed_in


class LoraLinear(torch.autograd.Function):
    """`x W^T + bias + scaling * (x A^T) B^T`; `W` and `bias` are frozen.

    Shapes: x (..., in), W (out, in), bias (out,) or None, A (rank, in), B (out, rank).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        dtype = computed_in(x)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        ctx.trained_dtype = a.dtype
        matrix, a, b = weight.to(dtype), a.to(dtype), b.to(dtype)
        thin = rows @ a.T
        result = rows @ matrix.T if bias is None else torch.addmm(bias.to(dtype), rows, matrix.T)
        result.addmm_(thin, b.T, alpha=scaling)
        # `weight` itself is kept: a copy in another precision is made again, as autocast would.
        ctx.save_for_backward(rows, weight, a, b, thin)
        ctx.scaling, ctx.shape, ctx.input_dtype = scaling, x.shape, x.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, thin = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        through_b = gradient @ b
        of_b = (gradient.T @ thin).mul_(ctx.scaling)
        of_a = (through_b.T @ rows).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ weight.to(gradient.dtype)
            of_x.addmm_(through_b, a, alpha=ctx.scaling)
            of_x = of_x.view(ctx.shape).to(ctx.input_dtype)
        return of_x, None, None, of_a.to(ctx.trained_dtype), of_b.to(ctx.trained_dtype), None


def fusible(layer: Any) -> bool:
    """Whether `layer` is a plain LoRA on a plain frozen linear layer: no DoRA, no dropout, one adapter."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear or layer.lora_variant:
        return False
    if layer.merged or layer.disable_adapters or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or layer.lora_B[name].bias is not None:
        return False
    frozen = not any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    return frozen and isinstance(layer.lora_dropout[name], torch.nn.Identity)


def fuse(layer: Any) -> None:
    """Make `layer` compute in one operation, wherever that is what PEFT would compute."""
    layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    plain = not (args or kwargs or layer.merged or layer.disable_adapters) and name in layer.lora_A
    # Without autocast PEFT mixes precisions in a way of its own.
    base = layer.base_layer
    one_precision = torch.is_autocast_enabled(x.device.type) or (
        plain and x.dtype == base.weight.dtype == layer.lora_A[name].weight.dtype
    )
    if not (plain and one_precision):
        result: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return result
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    fused: torch.Tensor = LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[name])
    return fused

"""Precision of trained and of frozen parameters. Not a plugin; a library of this folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tkernel_plugins.adapters.options import AdapterOptions


def settle_precision(module: Any, arguments: Mapping[str, Any], options: AdapterOptions) -> None:
    """Hold trained parameters in float32, and frozen ones in what `bf16` or `fp16` asks to compute in.

    With `pure_bf16` all of them are held in bfloat16.

    Optimisers round small updates away in sixteen bits; what is frozen only costs memory. Parameters that
    the model class wants in float32 (`_keep_in_fp32_modules`) and all others of a run without `bf16` and
    `fp16` stay as they are.
    """
    import torch

    brain = options.pure_bf16 or arguments.get("bf16")
    compute = torch.bfloat16 if brain else torch.float16 if arguments.get("fp16") else None
    kept = _kept_in_float32(module)
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.requires_grad and not options.pure_bf16:
            parameter.data = parameter.data.to(torch.float32)
        elif compute is not None and not (kept and kept.search(name)):
            parameter.data = parameter.data.to(compute)


def _kept_in_float32(module: Any) -> re.Pattern[str] | None:
    names = {
        name
        for child in module.modules()
        for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        for name in getattr(child, attribute, None) or ()
    }
    return re.compile(rf"(?:^|\.)(?:{'|'.join(map(re.escape, names))})(?:\.|$)") if names else None


def print_parameters(module: Any) -> None:
    """One line for each parameter: name, shape, precision, device, whether it is trained."""
    for name, parameter in module.named_parameters():
        kind = str(parameter.dtype).removeprefix("torch.")
        state = "trained" if parameter.requires_grad else "frozen"
        print(f"{name}  {tuple(parameter.shape)}  {kind}  {parameter.device}  {state}")

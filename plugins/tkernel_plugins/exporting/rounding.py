"""The precision in which weights are saved."""

from __future__ import annotations

import re
from typing import Any

import torch


def round_weights(module: Any, dtype: torch.dtype) -> None:
    """Make of a transformers model in memory what loading it saved in `dtype` gives.

    Only what is saved is rounded, so rotary frequencies, which every load computes anew, stay in float32; and so do
    the layers that the family keeps in it.
    """
    families = [module._keep_in_fp32_modules_strict] if dtype in (torch.float16, torch.bfloat16) else []
    families += [module._keep_in_fp32_modules] if dtype == torch.float16 else []
    kept = [re.compile(rf"(^|\.){name}(\.|$)") for names in families for name in names or ()]
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not any(pattern.search(name) for pattern in kept):
            tensor.data = tensor.data.to(dtype)

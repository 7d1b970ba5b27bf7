"""The precision that a matrix product runs in: that of autocast where it is on."""

from __future__ import annotations

import torch


def computed_in(tensor: torch.Tensor) -> torch.dtype:
    """What `torch.nn.functional.linear` would compute `tensor` in, here and now."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype

"""Attention over samples that lie one after another in one row, a call for each sample.

A mask would do the same, but costs the square of the whole row's length, and keeps torch from its faster
kernels. An implementation of attention in the sense of transformers, registered as `split`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

NAME = "split"
LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers (`config.layer_types`) that need no other mask than a causal one with a window."""


def register() -> None:
    """Make `split` known to transformers; may be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, split_attention)
    AttentionMaskInterface.register(NAME, split_mask)


def applies_to(config: Any, longest: int) -> bool:
    """Whether a text model with this config, now with `sdpa`, may use `split` for samples of `longest` tokens.

    Windows that no sample reaches are no matter; others are left to transformers' masks.
    """
    layers = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    return config._attn_implementation == "sdpa" and layers <= LAYERS and not (window and longest > window)


def split_mask(batch_size: int, *args: Any, **kwargs: Any) -> torch.Tensor | None:
    """No mask for one row that came without one: `split_attention` reads the borders off the position ids.

    A row that came with a mask gets one, even where it hides nothing: its samples see each other.
    """
    from transformers.masking_utils import sdpa_mask

    if batch_size == 1:
        if kwargs.get("attention_mask") is None:
            return None
        kwargs["allow_is_causal_skip"] = False
    mask: torch.Tensor | None = sdpa_mask(batch_size, *args, **kwargs)
    return mask


def split_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As `sdpa`, but tokens see only their own sample where position ids start again within a row.

    Shapes: query, key and value (batch, heads, length, width); the result (batch, length, heads, width).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    alone = attention_mask is not None or len(query) > 1 or query.shape[2] != key.shape[2]
    lengths = [query.shape[2]] if alone else _lengths(position_ids, query.shape[2])
    if len(lengths) == 1:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    samples = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    outputs = [
        F.scaled_dot_product_attention(
            *sample,
            is_causal=True,
            dropout_p=kwargs.get("dropout", 0.0),
            scale=kwargs.get("scaling"),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for sample in samples
    ]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _lengths(position_ids: torch.Tensor | None, length: int) -> Sequence[int]:
    """Tokens of each sample of the one row."""
    if position_ids is None or position_ids.shape != (1, length):
        return [length]
    starts = position_ids[0, 1:].eq(0).nonzero()[:, 0].add(1).tolist()
    return [stop - start for start, stop in zip([0, *starts], [*starts, length], strict=True)]

"""Attention over rows in which sequences share a beginning: a prompt is computed once for all its replies.

A row is cut into pieces, one after another; a piece sees itself and perhaps the beginning of an earlier piece.
For a pair these are prompt and chosen reply, and the rejected reply, which sees the prompt. An
implementation of attention in the sense of transformers, registered as `branches`; a model's `forward` hands
its keyword argument `branches` on to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tkernel_plugins.training.fused import attention

NAME = "branches"


@dataclass(frozen=True)
class Piece:
    """Positions `start` to `stop` of a row, which come after the `shared` positions from `root` on."""

    start: int
    stop: int
    root: int = 0
    shared: int = 0

    def moved(self, by: int) -> Piece:
        """The piece in a row that has `by` more positions before it."""
        return Piece(self.start + by, self.stop + by, self.root + by, self.shared)


@dataclass(frozen=True)
class Branches:
    """The pieces of a row, which cover it in order, and what each of them may see."""

    pieces: tuple[Piece, ...]
    masks: tuple[torch.Tensor | None, ...]
    """(piece, shared + piece), bool; None where a causal mask of the piece alone does."""

    @classmethod
    def of(cls, pieces: Sequence[Piece], device: torch.device) -> Branches:
        """With the masks on `device`."""
        masks = []
        for piece in pieces:
            length = piece.stop - piece.start
            mask = torch.ones(length, piece.shared + length, dtype=torch.bool, device=device)
            masks.append(mask.tril(piece.shared) if piece.shared else None)
        return cls(tuple(pieces), tuple(masks))


def require(config: Any) -> None:
    """Raise if a model with this config would let every piece see all before it.

    Raises:
        RuntimeError: it does not attend by `branches`.
    """
    used = config.get_text_config()._attn_implementation
    if used != NAME:
        raise RuntimeError(
            f"a row of several sequences needs the attention {NAME!r}, and the model has {used!r}"
        )


def register() -> None:
    """Make `branches` known to transformers; may be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, branched_attention)
    AttentionMaskInterface.register(NAME, attention.split_mask)


def branched_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    branches: Branches | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As `sdpa`, but each piece of `branches` sees what it may.

    Shapes: query, key and value (batch, heads, length, width), batch 1 with `branches`; the result (batch,
    length, heads, width).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if branches is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    outputs = []
    for piece, mask in zip(branches.pieces, branches.masks, strict=True):
        own = slice(piece.start, piece.stop)
        keys, values = key[:, :, own], value[:, :, own]
        if piece.shared:
            before = slice(piece.root, piece.root + piece.shared)
            keys, values = (torch.cat([x[:, :, before], y], 2) for x, y in ((key, keys), (value, values)))
        outputs.append(
            F.scaled_dot_product_attention(
                query[:, :, own],
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=kwargs.get("dropout", 0.0),
                scale=kwargs.get("scaling"),
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None

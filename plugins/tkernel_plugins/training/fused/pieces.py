"""A micro-batch without its padding, cut into pieces that a model is given one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100

TEXT = frozenset({"input_ids", "attention_mask", "position_ids", "labels", "use_cache"})
"""What a batch of text may hold; anything else is left to the model's own forward."""


@dataclass(frozen=True)
class Piece:
    """What the model is given at once."""

    inputs: dict[str, torch.Tensor]
    """`input_ids` (rows, length), and `attention_mask` and `position_ids` where the model needs them."""
    labels: torch.Tensor
    """(rows, length); what no token of its own sample predicts is -100."""
    scale: torch.Tensor
    """(rows, length), what the loss of each label is multiplied with; float32."""


def pieces_of(
    inputs: dict[str, Any], labels: torch.Tensor, scale: torch.Tensor, *, longest: int, by_row: bool
) -> list[Piece]:
    """The pieces of a micro-batch.

    Args:
        inputs: a batch of `TEXT`.
        labels: (batch, length).
        scale: (batch, length).
        longest: samples are joined to rows of at most so many tokens, each of which keeps to its own; 0 joins
            none. A longer sample is a piece alone.
        by_row: make a piece of each row that cannot be joined, without its padding where that is possible;
            else they stay one batch.
    """
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
    given = {name: value for name, value in given.items() if value is not None}
    lengths = _lengths(given, labels)
    if lengths is None:
        whole = Piece(given, labels, scale)
        return [_row(whole, row) for row in range(len(labels))] if by_row else [whole]
    if not longest and not by_row:
        return [Piece(given, labels, scale)]
    return [_joined(given, labels, scale, group, lengths) for group in _groups(lengths, longest)]


def _lengths(given: dict[str, torch.Tensor], labels: torch.Tensor) -> list[int] | None:
    """Tokens of each row before its padding; None where rows have to stay as they are."""
    ids, mask, positions = given["input_ids"], given.get("attention_mask"), given.get("position_ids")
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    if mask is None and positions is not None:
        # Positions of padding are 0, and a last sample of one token has nothing to predict.
        lengths = (positions.ne(0) * places).amax(-1)
    elif mask is not None and positions is None and mask.dim() == 2:
        lengths = mask.sum(-1)
        if not (mask.ne(0) == (places <= lengths[:, None])).all():
            return None  # padding on the left
    else:
        return None
    learned = (labels.ne(IGNORED) * places).amax(-1)
    return None if (learned > lengths).any() else lengths.tolist()


def _groups(lengths: Sequence[int], longest: int) -> list[list[int]]:
    """Rows that share a piece, in their order."""
    groups: list[list[int]] = []
    room = 0
    for row, length in enumerate(lengths):
        if not length:
            continue
        if groups and length <= room:
            groups[-1].append(row)
        else:
            groups.append([row])
            room = max(longest, length)
        room -= length
    return groups


def _joined(
    given: dict[str, torch.Tensor],
    labels: torch.Tensor,
    scale: torch.Tensor,
    rows: Sequence[int],
    lengths: Sequence[int],
) -> Piece:
    def one(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[row, : lengths[row]] for row in rows])[None]

    ids = one(given["input_ids"])
    positions = given.get("position_ids")
    own = labels.clone()
    own[:, 0] = IGNORED
    joined = {"input_ids": ids}
    if positions is not None:
        joined["position_ids"] = one(positions)
        own[positions == 0] = IGNORED
    elif len(rows) > 1:
        counted = [torch.arange(lengths[row], device=ids.device) for row in rows]
        joined["position_ids"] = torch.cat(counted)[None]
    return Piece(joined, one(own), one(scale))


def _row(whole: Piece, row: int) -> Piece:
    part = slice(row, row + 1)
    inputs = {name: value[part] for name, value in whole.inputs.items()}
    return Piece(inputs, whole.labels[part], whole.scale[part])

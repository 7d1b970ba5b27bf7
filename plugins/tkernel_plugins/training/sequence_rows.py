"""Sequences that share a beginning as one row of tokens without padding, and as rows with padding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tkernel_plugins.data.padding import IGNORED
from tkernel_plugins.training.fused.branches import Piece

Row = dict[str, Any]
"""`input_ids` and `position_ids` (1, length); `predicted_by` (tokens,), where in the row each learned token is
predicted; `targets`, `weights` (tokens,), the sequences one after another; `lengths`, learned tokens of each
sequence; `last` (sequences,), where each ends; `pieces`, see `fused.branches`."""


@dataclass(frozen=True)
class Tokens:
    """Ids, labels and weights of one sequence."""

    ids: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[int], labels: Sequence[int], weights: Sequence[float] | None) -> Tokens:
        """From the columns of a sample; all weights are 1 where there are none."""
        numbers = np.asarray(ids, dtype=np.int64), np.asarray(labels, dtype=np.int64)
        given = np.ones(len(ids)) if weights is None or not len(weights) else np.asarray(weights)
        return cls(*numbers, given.astype(np.float32))


def digest(sequences: Sequence[Tokens]) -> str:
    """What a model's log-probabilities of `sequences` depend on, in 32 characters."""
    found = hashlib.blake2b(digest_size=16)
    for sequence in sequences:
        for part in (sequence.ids, sequence.labels, sequence.weights):
            found.update(len(part).to_bytes(8, "little") + part.tobytes())
    return found.hexdigest()


def row_of(sequences: Sequence[Tokens]) -> Row:
    """One row of `sequences`: the first whole, of the others what differs from the first."""
    first = sequences[0].ids
    ids, positions, pieces = [first], [np.arange(len(first))], [Piece(0, len(first))]
    predicted, targets, weights, lengths, last = [], [], [], [], []
    end = len(first)
    for sequence in sequences:
        shared = len(first) if sequence is sequences[0] else _common(first, sequence.ids)
        learned = np.flatnonzero(sequence.labels[1:] != IGNORED)
        predicted.append(np.where(learned < shared, learned, learned - shared + end))
        targets.append(sequence.labels[1:][learned])
        weights.append(sequence.weights[1:][learned])
        lengths.append(len(learned))
        if shared < len(sequence.ids) and sequence is not sequences[0]:
            rest = len(sequence.ids) - shared
            ids.append(sequence.ids[shared:])
            positions.append(np.arange(shared, len(sequence.ids)))
            pieces.append(Piece(end, end + rest, 0, shared))
            end += rest
            last.append(end - 1)
        else:
            last.append(len(sequence.ids) - 1)
    return {
        "input_ids": torch.from_numpy(np.concatenate(ids))[None],
        "position_ids": torch.from_numpy(np.concatenate(positions))[None],
        "predicted_by": torch.from_numpy(np.concatenate(predicted)),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "weights": torch.from_numpy(np.concatenate(weights)),
        "last": torch.tensor(last),
        "lengths": lengths,
        "pieces": pieces,
    }


def joined(rows: Sequence[Row]) -> Row:
    """The rows as one, in which none sees another."""
    starts = np.cumsum([0, *(row["input_ids"].shape[1] for row in rows)]).tolist()
    return {
        **{name: torch.cat([row[name] for row in rows], 1) for name in ("input_ids", "position_ids")},
        **{
            name: torch.cat([row[name] + start for row, start in zip(rows, starts, strict=False)])
            for name in ("predicted_by", "last")
        },
        **{name: torch.cat([row[name] for row in rows]) for name in ("targets", "weights")},
        "lengths": [length for row in rows for length in row["lengths"]],
        "pieces": [
            piece.moved(start) for row, start in zip(rows, starts, strict=False) for piece in row["pieces"]
        ],
    }


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """The length of the beginning that two sequences share."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length

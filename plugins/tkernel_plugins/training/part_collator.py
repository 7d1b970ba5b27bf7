"""Batches of samples that hold several sequences each, and beside the batch each sample's sequences alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.padding import sequences
from tkernel_plugins.training.sequence_rows import Tokens, digest, row_of

Batch = dict[str, Any]

PAIR = ("chosen_", "rejected_")
"""What the names of the columns of a pair's sequences begin with."""
FEEDBACK = ("", "kl_")


@dataclass(frozen=True)
class PartCollator:
    """A collator's batch, with `keys` and `parts`: a digest of each sample's sequences, and those as one row
    (see `sequence_rows`) or as a padded batch of their own.

    A part depends on its sample alone, so that what is computed of it can be kept. Batches with media have
    no parts.

    Args:
        whole: makes the batch of all samples.
        names: beginnings of the columns of a sample's sequences.
        pad_token_id: fills padded parts.
        joined: parts are rows, not padded.
        apart: rows of each sequence alone too, as `alone`: one list for each of `names`.
    """

    whole: Callable[[Sequence[Mapping[str, Any]]], Batch]
    names: tuple[str, ...]
    pad_token_id: int
    joined: bool = False
    apart: bool = False

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `samples`."""
        batch = self.whole(samples)
        if any(sample.get(name) for sample in samples for name in MEDIA):
            return batch
        every = [[self._tokens(sample, name) for name in self.names] for sample in samples]
        batch["keys"] = [digest(own) for own in every]
        batch["parts"] = [row_of(own) if self.joined else self._padded(own) for own in every]
        if self.joined and self.apart:
            batch["alone"] = [[row_of([tokens]) for tokens in column] for column in zip(*every, strict=True)]
        return batch

    def _tokens(self, sample: Mapping[str, Any], name: str) -> Tokens:
        columns = (f"{name}input_ids", f"{name}labels")
        return Tokens.of(*(sample[column] for column in columns), sample.get(f"{name}weights"))

    def _padded(self, own: Sequence[Tokens]) -> Batch:
        return sequences(
            [tokens.ids for tokens in own],
            [tokens.labels for tokens in own],
            [tokens.weights for tokens in own],
            pad_token_id=self.pad_token_id,
            multiple=None,
            learn_padding=False,
        )

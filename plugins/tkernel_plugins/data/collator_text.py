"""Batches of documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

IGNORED = -100


class TextCollator:
    """Batches in which the token that fills rows is not learned, wherever it stands.

    As in LLaMA-Factory (transformers' `DataCollatorForLanguageModeling`). For a tokenizer that pads with its
    end of a text, ends of documents are then not learned; `ignore_pad_token_for_loss: false` learns them.

    Args:
        collate: makes the batch.
        pad_token_id: the id that fills `input_ids`.
    """

    def __init__(self, collate: Callable[..., dict[str, Any]], pad_token_id: int) -> None:
        self.collate = collate
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`."""
        batch = self.collate(rows)
        batch["labels"][batch["labels"] == self.pad_token_id] = IGNORED
        return batch

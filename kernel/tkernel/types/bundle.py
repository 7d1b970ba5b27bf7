"""A loaded model and all that belongs to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tkernel.types.facts import ModelFacts


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """What `load_model` returns and `adapt` changes.

    `module` is a `torch.nn.Module`, `tokenizer` a `transformers` tokenizer, `processor` a
    `transformers` processor for models with media (else None).
    """

    module: Any
    tokenizer: Any
    facts: ModelFacts
    processor: Any = None
    role: str = "policy"
    """`policy` is what is trained or talks; `reference`, `reward`, `teacher` are loaded beside it."""
    new_tokens: tuple[int, ...] = ()
    """Ids that the model plugin added to the vocabulary: adapters train and save their embeddings."""

    def replace(self, **changes: Any) -> ModelBundle:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

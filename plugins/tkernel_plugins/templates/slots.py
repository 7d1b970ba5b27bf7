"""What templates are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Token:
    """A slot that is one token of the vocabulary, by name, whatever the tokenizer makes of its text."""

    text: str


class Edge(Enum):
    """Slots that are the tokenizer's own tokens; one that the tokenizer lacks is left out."""

    BOS = "bos_token"
    EOS = "eos_token"


BOS, EOS = Edge.BOS, Edge.EOS

CONTENT = "{{content}}"
"""Stands for the message in a text slot."""

Slots = tuple[str | Token | Edge, ...]
"""Each slot is tokenised on its own."""

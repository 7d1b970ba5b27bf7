"""Preference rows: a prompt, the reply that was chosen and the one that was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation
from tkernel.types.dataset import Rejection
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel_plugins.data.canonical import MEDIA, conversations
from tkernel_plugins.data.media_places import left_of, references
from tkernel_plugins.data.samples import (
    CANNOT_RENDER,
    NOTHING_TO_LEARN,
    TOO_LONG,
    counting_features,
    encode_rows,
    learned,
    origins_of,
    refuse_long,
    rejection,
    table_of,
    unusable,
    usable,
)
from tkernel_plugins.data.sides import Side, SideEncoder, joined, with_prompt

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferenceEncoder:
    """Encodes one Arrow table of preference rows after the other.

    Both sides have the same prompt, whatever was cut; only their completions are learned.
    """

    counted: ClassVar[tuple[str, ...]] = ("chosen_input_ids", "rejected_input_ids")
    optional: ClassVar[tuple[str, ...]] = ("chosen_weights", "rejected_weights", *MEDIA)

    renderer: Renderer
    tokenizer: Any = None
    media: MediaProcessor | None = None
    cutoff_len: int = 2048
    truncation: str = "proportional"
    strict: bool = True

    @property
    def features(self) -> datasets.Features:
        """The columns of a sample: int32 ids and labels of each side, float32 weights."""
        from datasets import Features, List, Value

        reference = {"path": Value("string"), "bytes": Value("binary")}
        columns: dict[str, Any] = {}
        for side in SIDES:
            columns[f"{side}_input_ids"] = columns[f"{side}_labels"] = List(Value("int32"))
            columns[f"{side}_weights"] = List(Value("float32"))
        return Features(columns | {name: List(reference) for name in MEDIA} | counting_features())

    def __call__(self, table: pa.Table) -> pa.Table:
        """One sample for each row of `table`, in their order."""
        origins, prompts = origins_of(table), conversations(table)
        replies = [[c.messages for c in conversations(table, side)] for side in SIDES]
        rows = list(zip(prompts, *replies, strict=True))
        results = encode_rows(lambda numbers: self._encode([rows[n] for n in numbers]), origins, self.strict)
        samples = [
            self._sample(prompt, result) | {"origin": origin}
            for prompt, result, origin in zip(prompts, results, origins, strict=True)
        ]
        refuse_long(_places(samples), self.truncation)
        features = self.features
        return table_of({name: [sample[name] for sample in samples] for name in features}, features)

    def _encode(self, rows: Sequence[tuple[Conversation, Any, Any]]) -> list[list[Side]]:
        """The two sides of each row, cut; whole where they are too long to be used."""
        encoder = SideEncoder(self.renderer, self.tokenizer, self.media, self.cutoff_len, self.truncation)
        given = [joined(prompt, reply) for prompt, *replies in rows for reply in replies]
        sides = encoder.encode(given, [len(reply) for _, *replies in rows for reply in replies])
        pairs = []
        for chosen, rejected in zip(sides[::2], sides[1::2], strict=True):
            pair = (chosen, with_prompt(rejected, chosen))
            pairs.append(list(pair) if encoder.too_long(*pair) else encoder.cut(*pair))
        return pairs

    def _sample(self, prompt: Conversation, result: list[Side] | DataError) -> dict[str, Any]:
        if isinstance(result, DataError):
            return _empty(prompt) | unusable(CANNOT_RENDER, result.message)
        sizes = [len(side.encoded.input_ids) for side in result]
        dropped = sum(side.encoded.dropped for side in result)
        if max(sizes) > self.cutoff_len:
            detail = f"{max(sizes):,} tokens, cutoff_len {self.cutoff_len:,}"
            return _empty(prompt) | unusable(TOO_LONG, detail, sum(sizes))
        supervised = [learned(side.encoded.labels) for side in result]
        if not all(supervised):
            which = SIDES[supervised.index(0)]
            tokens = sum(sizes) + dropped
            detail = f"in the {which} reply; both have {tokens:,} tokens, cutoff_len {self.cutoff_len:,}"
            return _empty(prompt) | unusable(NOTHING_TO_LEARN, detail, dropped)
        sample: dict[str, Any] = {}
        for name, side in zip(SIDES, result, strict=True):
            sample[f"{name}_input_ids"] = side.encoded.input_ids
            sample[f"{name}_labels"] = side.encoded.labels
            sample[f"{name}_weights"] = side.encoded.weights
        left = left_of(result[0].given, result[0].encoded) if dropped else None
        return sample | references(prompt, left) | usable(sum(supervised), dropped)


def _empty(prompt: Conversation) -> dict[str, Any]:
    empty = {f"{side}_{name}": () for side in SIDES for name in ("input_ids", "labels")}
    return empty | {f"{side}_weights": None for side in SIDES} | references(prompt, ())


def _places(samples: Sequence[dict[str, Any]]) -> list[Rejection]:
    """The samples that are too long."""
    return [rejection(s["origin"], s["detail"]) for s in samples if s["reason"] == TOO_LONG]

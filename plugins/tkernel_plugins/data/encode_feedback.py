"""Feedback rows: a prompt, a completion, and whether it was liked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
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
from tkernel_plugins.data.sides import Side, SideEncoder, joined

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

PARTS = ("", "kl_")
MEDIA_DIFFER = "a medium that is cut off with one completion and kept with the other"


@dataclass(frozen=True)
class FeedbackEncoder:
    """Encodes one Arrow table of feedback rows after the other.

    `kl_input_ids` is the prompt with a completion that does not belong to it, from which KTO estimates its
    KL term: that of the row before, and for the first row of a table that of the last, as in
    LLaMA-Factory. It is cut on its own, and always in proportion: it is no data of this row. Completions
    of rows that cannot be rendered are passed over.
    """

    counted: ClassVar[tuple[str, ...]] = ("input_ids", "kl_input_ids")
    optional: ClassVar[tuple[str, ...]] = ("weights", *MEDIA)

    renderer: Renderer
    tokenizer: Any = None
    media: MediaProcessor | None = None
    cutoff_len: int = 2048
    truncation: str = "proportional"
    strict: bool = True

    @property
    def features(self) -> datasets.Features:
        """The columns of a sample: int32 ids and labels, float32 weights, `label` true for liked."""
        from datasets import Features, List, Value

        reference = {"path": Value("string"), "bytes": Value("binary")}
        numbers = List(Value("int32"))
        return Features(
            {f"{part}{name}": numbers for part in PARTS for name in ("input_ids", "labels")}
            | {"weights": List(Value("float32")), "label": Value("bool")}
            | {name: List(reference) for name in MEDIA}
            | counting_features()
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """One sample for each row of `table`, in their order."""
        origins, prompts = origins_of(table), conversations(table)
        completions = [c.messages for c in conversations(table, "completion")]
        own = encode_rows(
            lambda rows: self._sides(prompts, completions, rows, rows, self.truncation), origins, self.strict
        )
        partners = _partners([isinstance(side, Side) for side in own])
        mismatched = encode_rows(
            lambda rows: self._sides(
                prompts, completions, rows, [partners[row] for row in rows], "proportional"
            ),
            origins,
            self.strict,
        )
        likes = table["label"].to_pylist()
        samples = [
            self._sample(prompt, side, kl) | {"label": label, "origin": origin}
            for prompt, side, kl, label, origin in zip(prompts, own, mismatched, likes, origins, strict=True)
        ]
        long = [rejection(s["origin"], s["detail"]) for s in samples if s["reason"] == TOO_LONG]
        refuse_long(long, self.truncation)
        features = self.features
        return table_of({name: [sample[name] for sample in samples] for name in features}, features)

    def _sides(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[tuple[Message, ...]],
        rows: Sequence[int],
        partners: Sequence[int],
        truncation: str,
    ) -> list[Side]:
        """The prompts of `rows` with the completions of `partners`, cut."""
        encoder = SideEncoder(self.renderer, self.tokenizer, self.media, self.cutoff_len, truncation)
        pairs = [(prompts[row], completions[partner]) for row, partner in zip(rows, partners, strict=True)]
        sides = encoder.encode(
            [joined(*pair) for pair in pairs], [len(completion) for _, completion in pairs]
        )
        return [side if encoder.too_long(side) else encoder.cut(side)[0] for side in sides]

    def _sample(
        self, prompt: Conversation, own: Side | DataError, mismatched: Side | DataError
    ) -> dict[str, Any]:
        if isinstance(own, DataError):
            return _empty(prompt) | unusable(CANNOT_RENDER, own.message)
        if isinstance(mismatched, DataError):
            return _empty(prompt) | unusable(CANNOT_RENDER, f"with another completion: {mismatched.message}")
        encoded, kl = own.encoded, mismatched.encoded
        size = len(encoded.input_ids)
        detail = f"{size + encoded.dropped:,} tokens, cutoff_len {self.cutoff_len:,}"
        if size > self.cutoff_len:
            return _empty(prompt) | unusable(TOO_LONG, detail, size)
        supervised = learned(encoded.labels)
        if not supervised:
            return _empty(prompt) | unusable(NOTHING_TO_LEARN, detail, encoded.dropped)
        left = [
            None if not side.encoded.dropped else left_of(side.given, side.encoded)
            for side in (own, mismatched)
        ]
        columns = [references(prompt, kept) for kept in left]
        if columns[0] != columns[1]:
            return _empty(prompt) | unusable(MEDIA_DIFFER, detail, encoded.dropped)
        return {
            "input_ids": encoded.input_ids,
            "labels": encoded.labels,
            "weights": encoded.weights,
            "kl_input_ids": kl.input_ids,
            "kl_labels": kl.labels,
            **columns[0],
            **usable(supervised, encoded.dropped),
        }


def _partners(can_render: Sequence[bool]) -> list[int]:
    """For each row the one before it that can be rendered; before the first comes the last."""
    size = len(can_render)
    partners = []
    for row in range(size):
        before = ((row - back) % size for back in range(1, size + 1))
        partners.append(next((other for other in before if can_render[other]), row))
    return partners


def _empty(prompt: Conversation) -> dict[str, Any]:
    ids = {f"{part}{name}": () for part in PARTS for name in ("input_ids", "labels")}
    return ids | {"weights": None} | references(prompt, ())

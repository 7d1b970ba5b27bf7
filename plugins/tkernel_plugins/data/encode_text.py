"""Text rows: documents, of which every token is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from tkernel.encoding import SegmentEncoder
from tkernel.types.rendering import Encoded, Segment
from tkernel_plugins.data.samples import (
    NOTHING_TO_LEARN,
    TOO_LONG,
    counting_features,
    learned,
    origins_of,
    refuse_long,
    rejection,
    table_of,
    unusable,
    usable,
)
from tkernel_plugins.data.truncation import truncate

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@dataclass(frozen=True)
class TextEncoder:
    """Encodes one Arrow table of text rows after the other.

    A document is followed by the end-of-text token (`Renderer.end_of_text` if the template names one, else
    the tokenizer's end of a sequence). Text that spells a special token stays text.

    Args:
        cutoff_len: documents that will be packed are not cut: None. Others begin with the tokenizer's
            begin-of-sequence token if it adds one (`add_bos_token`), and are cut at their end unless
            `truncation` says otherwise.
    """

    counted: ClassVar[tuple[str, ...]] = ("input_ids",)
    optional: ClassVar[tuple[str, ...]] = ()

    tokenizer: Any
    end_of_text: str
    cutoff_len: int | None = 2048
    truncation: str = "proportional"

    @property
    def features(self) -> datasets.Features:
        """The columns of a sample: int32 ids, and the same as labels."""
        from datasets import Features, List, Value

        numbers = List(Value("int32"))
        piece = {"piece": Value("int32")} if self.truncation == "split" else {}
        return Features({"input_ids": numbers, "labels": numbers, **piece, **counting_features()})

    def __call__(self, table: pa.Table) -> pa.Table:
        """The samples of the documents of `table`, in their order."""
        samples: list[dict[str, Any]] = []
        long = []
        documents = self.encode(table["text"].to_pylist())
        for ids, origin in zip(documents, origins_of(table), strict=True):
            for sample in self._samples(ids):
                samples.append(sample | {"origin": origin})
                if sample["reason"] == TOO_LONG:
                    long.append(rejection(origin, sample["detail"]))
        refuse_long(long, self.truncation)
        features = self.features
        return table_of({name: [sample[name] for sample in samples] for name in features}, features)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each document, whole, with its end."""
        segments = [Segment(text + self.end_of_text, typed=((0, len(text)),)) for text in texts]
        return self._encoder.encode(segments)

    def _samples(self, ids: list[int]) -> list[dict[str, Any]]:
        if self.cutoff_len is None:
            return [{"input_ids": ids, "labels": ids, "piece": 0} | usable(len(ids), 0)]
        if getattr(self.tokenizer, "add_bos_token", False) and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id, *ids]
        truncation = "drop" if self.truncation == "error" else self.truncation
        pieces = truncate(Encoded(ids, ids), self.cutoff_len, truncation, last_first=False, ends=False)
        return [self._sample(piece) for piece in pieces]

    def _sample(self, encoded: Encoded) -> dict[str, Any]:
        size = len(encoded.input_ids)
        detail = f"{size + encoded.dropped:,} tokens, cutoff_len {self.cutoff_len or 0:,}"
        sample = {"input_ids": encoded.input_ids, "labels": encoded.input_ids, "piece": encoded.piece}
        empty = {"input_ids": (), "labels": (), "piece": encoded.piece}
        if not size:
            return empty | unusable(TOO_LONG, detail, encoded.dropped)
        if not learned(encoded.input_ids):
            return empty | unusable(NOTHING_TO_LEARN, detail, encoded.dropped)
        return sample | usable(size, encoded.dropped)

    @cached_property
    def _encoder(self) -> SegmentEncoder:
        return SegmentEncoder(self.tokenizer)

"""Supervised rows: a conversation whose replies are learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tkernel.errors import DataError
from tkernel.rendering import Flat, SegmentRenderer
from tkernel.types.conversation import Conversation
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Encoded, Renderer
from tkernel_plugins.data.canonical import MEDIA, conversations
from tkernel_plugins.data.media_places import MediaPlaces, expanded, has_media, left_of, references
from tkernel_plugins.data.plain import plain_samples
from tkernel_plugins.data.samples import (
    CANNOT_RENDER,
    NOTHING_TO_LEARN,
    TOO_LONG,
    Origin,
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
from tkernel_plugins.data.truncation import truncate

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@dataclass(frozen=True)
class SupervisedEncoder:
    """Encodes one Arrow table of supervised rows after the other.

    A row becomes one sample, or with `truncation: split` one for each piece. With `strict`, a conversation
    that cannot be rendered is an error; else its sample has a `reason` and no ids.
    """

    counted: ClassVar[tuple[str, ...]] = ("input_ids",)
    optional: ClassVar[tuple[str, ...]] = ("weights", *MEDIA)

    renderer: Renderer
    tokenizer: Any = None
    media: MediaProcessor | None = None
    cutoff_len: int = 2048
    truncation: str = "proportional"
    train_on_prompt: bool = False
    mask_history: bool = False
    strict: bool = True

    @property
    def features(self) -> datasets.Features:
        """The columns of a sample: int32 ids and labels, float32 weights (null where all are 1)."""
        from datasets import Features, List, Value

        reference = {"path": Value("string"), "bytes": Value("binary")}
        piece = {"piece": Value("int32")} if self.truncation == "split" else {}
        return Features(
            {
                "input_ids": List(Value("int32")),
                "labels": List(Value("int32")),
                "weights": List(Value("float32")),
                **{name: List(reference) for name in MEDIA},
                **piece,
                **counting_features(),
            }
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """The samples of the rows of `table`, in their order."""
        import numpy as np
        import pyarrow as pa

        given, features = conversations(table), self.features
        written, flat = self._flat(given)
        if flat is None:
            return self._one_by_one(table, given, range(len(given)), self._encode)[0]
        how = {"cutoff_len": self.cutoff_len, "train_on_prompt": self.train_on_prompt}
        samples, plain = plain_samples(flat, table, features, **how)
        others = [row for row, right in enumerate(plain.tolist()) if not right or has_media(given[row])]
        if not others:
            return samples

        def encode(rows: Sequence[int], given: Sequence[Conversation]) -> list[list[Encoded]]:
            whole = [flat.conversation(row, self.train_on_prompt) for row in rows]
            return [
                self._pieces(*parts) for parts in zip(given, [written[r] for r in rows], whole, strict=True)
            ]

        rest, owners = self._one_by_one(table, given, others, encode)
        kept = np.setdiff1d(np.arange(len(given)), others)
        order = np.argsort(np.concatenate([kept, owners]), kind="stable")
        return pa.concat_tables([samples.take(kept), rest]).take(order)

    def _flat(self, given: Sequence[Conversation]) -> tuple[list[Conversation], Flat | None]:
        """The conversations with their media, and all of them encoded; None if one is bad, or if the renderer
        gives one by one only."""
        if not isinstance(self.renderer, SegmentRenderer) or not given:
            return [], None
        if self.train_on_prompt and self.renderer.efficient_eos:
            return [], None
        try:
            written = [expanded(conversation, self.media) for conversation in given]
            return written, self.renderer.flat(written, mask_history=self.mask_history)
        except DataError:
            return [], None

    def _one_by_one(
        self,
        table: pa.Table,
        given: Sequence[Conversation],
        rows: Sequence[int],
        encode: Callable[[Sequence[int], Sequence[Conversation]], list[list[Encoded]]],
    ) -> tuple[pa.Table, list[int]]:
        """The samples of `rows`, and of which row each is."""
        every = origins_of(table)
        origins = [every[row] for row in rows]
        results = encode_rows(
            lambda numbers: encode([rows[n] for n in numbers], [given[rows[n]] for n in numbers]),
            origins,
            self.strict,
        )
        samples: list[dict[str, Any]] = []
        owners, long = [], []
        for row, origin, result in zip(rows, origins, results, strict=True):
            for sample in self._samples(given[row], result, origin):
                samples.append(sample)
                owners.append(row)
                if sample["reason"] == TOO_LONG:
                    long.append(rejection(origin, sample["detail"]))
        refuse_long(long, self.truncation)
        features = self.features
        return table_of({name: [sample[name] for sample in samples] for name in features}, features), owners

    def _encode(self, rows: Sequence[int], given: Sequence[Conversation]) -> list[list[Encoded]]:
        """The pieces of each conversation."""
        written = [expanded(conversation, self.media) for conversation in given]
        whole = self.renderer.encode(
            written, train_on_prompt=self.train_on_prompt, mask_history=self.mask_history
        )
        return [self._pieces(*parts) for parts in zip(given, written, whole, strict=True)]

    def _pieces(self, given: Conversation, written: Conversation, whole: Encoded) -> list[Encoded]:
        if len(whole.input_ids) <= self.cutoff_len:
            return [whole]
        if has_media(given) and self.truncation not in ("drop", "error"):
            whole = MediaPlaces(self.tokenizer).locate(given, written, whole)
        return truncate(
            whole,
            self.cutoff_len,
            "drop" if self.truncation == "error" else self.truncation,
            last_first=self.mask_history,
            ends=getattr(self.renderer, "efficient_eos", False),
        )

    def _samples(
        self, given: Conversation, result: list[Encoded] | DataError, origin: Origin
    ) -> list[dict[str, Any]]:
        """The samples of one row; `origin` says which it is if the renderer breaks its contract."""
        if isinstance(result, DataError):
            return [_empty(given, 0) | unusable(CANNOT_RENDER, result.message) | {"origin": origin}]
        samples = []
        for encoded in result:
            ids, labels = encoded.input_ids, encoded.labels
            if len(ids) != len(labels):
                raise DataError(
                    f"{rejection(origin, 'the template gave')} {len(ids)} ids and {len(labels)} labels"
                )
            tokens = len(ids) + encoded.dropped
            supervised = learned(labels)
            if not ids and encoded.dropped and self.truncation in ("drop", "error"):
                counts = unusable(TOO_LONG, f"{tokens:,} tokens, cutoff_len {self.cutoff_len:,}", tokens)
            elif not supervised:
                which = f"piece {encoded.piece + 1} of {len(result)}, " if len(result) > 1 else ""
                detail = f"{which}{tokens:,} tokens, cutoff_len {self.cutoff_len:,}"
                counts = unusable(NOTHING_TO_LEARN, detail, encoded.dropped)
            else:
                cut = encoded.dropped or len(result) > 1
                left = left_of(given, encoded) if cut else None
                sample = {"input_ids": ids, "labels": labels, "weights": encoded.weights}
                samples.append(
                    sample
                    | references(given, left)
                    | usable(supervised, encoded.dropped)
                    | {"origin": origin, "piece": encoded.piece}
                )
                continue
            samples.append(_empty(given, encoded.piece) | counts | {"origin": origin})
        return samples


def _empty(given: Conversation, piece: int) -> dict[str, Any]:
    return {"input_ids": (), "labels": (), "weights": None, "piece": piece} | references(given, ())

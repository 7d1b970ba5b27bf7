"""A batch of canonical rows to ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation
from tkernel.types.dataset import Rejection
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Encoded, Renderer
from tkernel_plugins.data.canonical import MEDIA, conversations

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

IGNORED = -100


def encoded_features() -> datasets.Features:
    """What `BatchEncoder` yields. `reason` is null for a sample that can be used; `dropped` counts the
    tokens that truncation cut off, `supervised` those that are learned."""
    from datasets import Features, List, Value

    text, reference = Value("string"), {"path": Value("string"), "bytes": Value("binary")}
    return Features(
        {
            "input_ids": List(Value("int32")),
            "labels": List(Value("int32")),
            "weights": List(Value("float32")),
            **{name: List(reference) for name in MEDIA},
            "origin": {"file": text, "row": Value("int64"), "line": Value("int64")},
            "supervised": Value("int64"),
            "dropped": Value("int64"),
            "reason": text,
            "detail": text,
        }
    )


@dataclass
class BatchEncoder:
    """Encodes one Arrow table of canonical rows after the other.

    With `strict`, a conversation that cannot be rendered is an error; else its row gets a `reason`.
    """

    renderer: Renderer
    media: MediaProcessor | None = None
    cutoff_len: int = 2048
    truncation: str = "proportional"
    train_on_prompt: bool = False
    mask_history: bool = False
    strict: bool = True

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ids, labels and what was counted, one row for each row of `table`, in its order."""
        import pyarrow as pa

        origins = _origins(table)
        given = conversations(table)
        samples = [self._sample(*pair) for pair in zip(self._encode(given, origins), origins, strict=True)]
        columns: dict[str, list[Any]] = {
            key: [sample[key] for sample in samples]
            for key in ("input_ids", "labels", "weights", "supervised", "dropped", "reason", "detail")
        }
        for name in MEDIA:
            columns[name] = [
                [_reference(item) for item in getattr(conversation, name)] for conversation in given
            ]
        return pa.Table.from_pydict(columns | {"origin": origins}, schema=encoded_features().arrow_schema)

    def _encode(
        self, given: Sequence[Conversation], origins: Sequence[dict[str, Any]]
    ) -> list[Encoded | DataError]:
        """Each conversation's ids, or the error why it has none."""
        try:
            return [*self._encode_all([self._expanded(conversation) for conversation in given])]
        except DataError:
            pass  # One of them is bad; one by one it shows which.
        results: list[Encoded | DataError] = []
        for conversation, origin in zip(given, origins, strict=True):
            try:
                results.extend(self._encode_all([self._expanded(conversation)]))
            except DataError as error:
                if self.strict:
                    raise DataError(
                        str(_rejection(origin, error.message)),
                        hint=error.hint or "Mend the row, or leave such rows out with `on_bad_row: drop`.",
                    ) from error
                results.append(error)
        return results

    def _encode_all(self, given: Sequence[Conversation]) -> list[Encoded]:
        return self.renderer.encode(
            given,
            cutoff_len=self.cutoff_len,
            truncation=self.truncation,
            train_on_prompt=self.train_on_prompt,
            mask_history=self.mask_history,
        )

    def _expanded(self, conversation: Conversation) -> Conversation:
        if self.media is not None:
            return self.media.expand(conversation)
        for name in MEDIA:
            if getattr(conversation, name):
                raise DataError(
                    f"the row has {name}, and the model of this run takes none",
                    hint="Use a multimodal model, or leave such rows out with `on_bad_row: drop`.",
                )
        return conversation

    def _sample(self, result: Encoded | DataError, origin: dict[str, Any]) -> dict[str, Any]:
        """The columns of one sample; `origin` says which it is if the renderer breaks its contract."""
        if isinstance(result, DataError):
            return _unusable("a conversation that the template cannot render", result.message)
        if len(result.input_ids) != len(result.labels):
            raise DataError(
                f"{_rejection(origin, 'the template gave')} {len(result.input_ids)} ids and {len(result.labels)} labels"
            )
        supervised = len(result.labels) - result.labels.count(IGNORED)
        if supervised == 0:
            tokens = len(result.input_ids) + result.dropped
            detail = f"{tokens:,} tokens, cutoff_len {self.cutoff_len:,}"
            return _unusable("nothing to learn", detail) | {"dropped": result.dropped}
        return {
            "input_ids": result.input_ids,
            "labels": result.labels,
            "weights": result.weights,
            "supervised": supervised,
            "dropped": result.dropped,
            "reason": None,
            "detail": None,
        }


def _unusable(reason: str, detail: str) -> dict[str, Any]:
    empty: list[int] = []
    counts = {"supervised": 0, "dropped": 0, "reason": reason, "detail": detail}
    return {"input_ids": empty, "labels": empty, "weights": None} | counts


def _rejection(origin: dict[str, Any], reason: str) -> Rejection:
    return Rejection(origin["file"], origin["row"], origin["line"], reason)


def _origins(table: pa.Table) -> list[dict[str, Any]]:
    """Where the rows came from; rows of a plugin that does not say have no file and are numbered."""
    if "origin" in table.column_names:
        return list(table["origin"].to_pylist())
    return [{"file": "?", "row": number, "line": None} for number in range(table.num_rows)]


def _reference(item: Any) -> dict[str, Any]:
    return {"path": None, "bytes": item} if isinstance(item, bytes) else {"path": item, "bytes": None}

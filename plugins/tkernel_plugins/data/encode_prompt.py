"""Prompt rows: a conversation that waits for a reply, for stages that generate it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, message_to_dict
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Encoded, Renderer
from tkernel_plugins.data.canonical import MEDIA, conversations
from tkernel_plugins.data.media_places import MediaPlaces, expanded, has_media, left_of, references
from tkernel_plugins.data.samples import (
    CANNOT_RENDER,
    TOO_LONG,
    counting_features,
    encode_rows,
    origins_of,
    refuse_long,
    rejection,
    table_of,
    unusable,
    usable,
)
from tkernel_plugins.data.truncation import keep, proportional

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

NO_PROMPT = "no prompt"

_CANONICAL = ("messages", "tools", "columns", "origin", *MEDIA)


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes one Arrow table of prompt rows after the other.

    `input_ids` are all that comes before the reply; `labels` are the ids of the reply where the row ends
    with one, and not part of the sequence. Nothing else of a row is learned, so `supervised` is 0.

    With `truncation: proportional` prompt and reply share `cutoff_len` and lose their ends, as in
    LLaMA-Factory; the other policies look at the prompt alone. `keep_end` keeps the question.

    `row` is JSON for those who generate and reward: `messages` up to the reply, `tools`, and `columns`,
    which are those of the canonical rows and every further column that a dataset plugin has added.
    """

    counted: ClassVar[tuple[str, ...]] = ("input_ids",)
    optional: ClassVar[tuple[str, ...]] = MEDIA

    renderer: Renderer
    tokenizer: Any = None
    media: MediaProcessor | None = None
    cutoff_len: int = 2048
    truncation: str = "proportional"
    strict: bool = True

    @property
    def features(self) -> datasets.Features:
        """The columns of a sample: int32 ids of the prompt and of the reply."""
        from datasets import Features, List, Value

        reference = {"path": Value("string"), "bytes": Value("binary")}
        numbers = List(Value("int32"))
        ids = {"input_ids": numbers, "labels": numbers}
        media = {name: List(reference) for name in MEDIA}
        return Features({**ids, "row": Value("string"), **media, **counting_features()})

    def __call__(self, table: pa.Table) -> pa.Table:
        """One sample for each row of `table`, in their order."""
        origins, given = origins_of(table), conversations(table)
        results = encode_rows(lambda rows: self._encode([given[row] for row in rows]), origins, self.strict)
        samples = [
            self._sample(conversation, result) | {"row": row, "origin": origin}
            for conversation, result, row, origin in zip(
                given, results, _rows(given, table), origins, strict=True
            )
        ]
        long = [rejection(s["origin"], s["detail"]) for s in samples if s["reason"] == TOO_LONG]
        refuse_long(long, self.truncation)
        features = self.features
        return table_of({name: [sample[name] for sample in samples] for name in features}, features)

    def _encode(self, given: Sequence[Conversation]) -> list[tuple[Encoded, list[int]]]:
        """Prompt and reply of each conversation, cut."""
        written = [expanded(conversation, self.media) for conversation in given]
        replied = [c for c in written if c.messages and c.messages[-1].role == "assistant"]
        whole = iter(self.renderer.encode(replied, mask_history=True))
        pairs = []
        for conversation, expansion in zip(given, written, strict=True):
            if conversation.messages and conversation.messages[-1].role == "assistant":
                encoded = next(whole)
                start = next(s for s, _, _, part in reversed(encoded.spans) if part == "reply")
                prompt, reply = encoded.input_ids[:start], encoded.input_ids[start:]
            else:
                prompt, reply = self.renderer.prompt_ids(expansion), []
            pairs.append(self._cut(conversation, expansion, prompt, reply))
        return pairs

    def _cut(
        self, given: Conversation, written: Conversation, prompt: list[int], reply: list[int]
    ) -> tuple[Encoded, list[int]]:
        room, whole = self.cutoff_len, Encoded(prompt, prompt)
        counted = len(prompt) + (len(reply) if self.truncation == "proportional" else 0)
        if counted <= room or self.truncation in ("drop", "error"):
            return whole, reply[:room]
        if has_media(given):
            whole = MediaPlaces(self.tokenizer).locate(given, written, whole)
        if self.truncation == "proportional":
            ((kept, reply_kept),) = proportional([(len(prompt), len(reply))], room)
            return keep(whole, [(0, kept)]), reply[:reply_kept]
        start = len(prompt) - room if self.truncation == "keep_end" else 0
        return keep(whole, [(start, start + room)]), reply[:room]

    def _sample(self, given: Conversation, result: tuple[Encoded, list[int]] | DataError) -> dict[str, Any]:
        empty = {"input_ids": (), "labels": ()} | references(given, ())
        if isinstance(result, DataError):
            return empty | unusable(CANNOT_RENDER, result.message)
        encoded, reply = result
        size = len(encoded.input_ids)
        detail = f"{size + encoded.dropped:,} tokens, cutoff_len {self.cutoff_len:,}"
        if size > self.cutoff_len:
            return empty | unusable(TOO_LONG, detail, size)
        if not size:
            return empty | unusable(NO_PROMPT, detail, encoded.dropped)
        media = references(given, left_of(given, encoded) if encoded.dropped else None)
        return {"input_ids": encoded.input_ids, "labels": reply} | media | usable(0, encoded.dropped)


def _rows(given: Sequence[Conversation], table: pa.Table) -> list[str]:
    """The JSON of each row, without the reply in which it may end."""
    names = [name for name in table.column_names if name not in _CANONICAL]
    added: list[dict[str, Any]] = table.select(names).to_pylist() if names else [{}] * table.num_rows
    told = table["columns"].to_pylist() if "columns" in table.column_names else [None] * table.num_rows
    rows = []
    for conversation, further, text in zip(given, added, told, strict=True):
        messages = conversation.messages
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        columns = (json.loads(text) if text else {}) | further
        row = {
            "messages": [message_to_dict(message) for message in messages],
            "tools": list(conversation.tools) or ([] if conversation.empty_tools else None),
            "columns": columns,
        }
        rows.append(json.dumps(row, default=str))
    return rows

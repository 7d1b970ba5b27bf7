"""Dataset format `alpaca`: an instruction, an optional input and the reply, a row each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkernel.hookspecs import hookimpl
from tkernel.types.conversation import Conversation
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.checks import check_streaming
from tkernel_plugins.data.formats import EXTRA_COLUMNS, BadRow, Format, Row, Sample, converted
from tkernel_plugins.data.options import RowOptions

if TYPE_CHECKING:
    import datasets


def sample_of(row: Row) -> Sample:
    """The sample of one row; raises `BadRow`.

    `prompt` and `query`, those that are not empty, are joined by a line break. `history` holds
    earlier pairs of instruction and reply. `chosen`, `rejected` and `response` are texts.
    """
    row.need("prompt")
    asked = "\n".join(part for part in (row.text("prompt"), row.text("query")) if part)
    if row.kind == "text":
        if not asked.strip():
            raise BadRow("an empty text")
        return Sample(Conversation(()), text=asked)
    messages = [*_history(row), {"role": "user", "content": asked}]
    replies: tuple[str, ...] = {"preference": ("chosen", "rejected")}.get(row.kind, ("response",))
    if row.kind == "prompt" and not str(row.get("response") or "").strip():
        replies = ()
    texts = [{"role": "assistant", "content": row.reply(name)} for name in replies]
    prompt = converted(messages, row.text("system"), row.tools())
    return Sample(
        prompt,
        replies=tuple(converted([text]).messages[0] for text in texts),
        label=row.liked() if row.kind == "feedback" else None,
    )


def _history(row: Row) -> list[dict[str, str]]:
    if not row.has("history"):
        return []
    messages = []
    for pair in row.items("history", row.get("history")):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            raise BadRow(f"`{row.columns['history']}` must be a list of pairs of texts")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    return messages


_DECLARED = {"prompt": "instruction", "query": "input", "response": "output"}

ALPACA = Format(
    name="alpaca",
    declared=_DECLARED,
    detected={**_DECLARED, "history": "history", **EXTRA_COLUMNS},
    tags={},
    convert=sample_of,
    needs={
        "supervised": [("prompt", "response")],
        "preference": [("prompt", "chosen", "rejected")],
        "feedback": [("prompt", "response", "kto_tag")],
        "text": [("prompt",)],
        "prompt": [("prompt",)],
    },
)


class Alpaca:
    """Reads the format `alpaca`: columns `instruction`, `input`, `output` unless others are declared."""

    name = "alpaca"
    Options = RowOptions
    check = staticmethod(check_streaming)
    kinds, unknown_names = ALPACA.kinds, ALPACA.unknown_names

    @hookimpl
    def load_dataset(self, request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset:
        """Read the entry into canonical rows."""
        from tkernel_plugins.data.rows import load_rows

        return load_rows(request, ALPACA)


DATASET: Any = Alpaca()

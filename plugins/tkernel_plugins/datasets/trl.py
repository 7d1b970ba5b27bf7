"""Dataset format `trl`: TRL's columns, plain and conversational."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tkernel.hookspecs import hookimpl
from tkernel.types.conversation import Conversation
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.checks import check_streaming
from tkernel_plugins.data.formats import EXTRA_COLUMNS, BadRow, Format, Row, Sample, kind_of
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.tagged import OPENAI_TAGS, sample_of

if TYPE_CHECKING:
    import datasets

Turns = list[Any]
"""Messages as OpenAI has them, not checked yet."""


def trl_sample(row: Row) -> Sample:
    """The sample of one row; raises `BadRow`.

    A plain text is a turn: `prompt` of the user, `completion`, `chosen` and `rejected` of the assistant.
    What `chosen` and `rejected` have in common at their beginning belongs to the prompt. Of a prompt and
    its completion only the completion is learned.
    """
    if row.kind == "text":
        text = row.as_text("text", row.need("text"))
        if not text.strip():
            raise BadRow("an empty text")
        return Sample(Conversation(()), text=text)
    value, columns = dict(row.value), {**row.columns, "messages": "messages"}
    if "label" in columns and not row.has("kto_tag"):
        columns["kto_tag"] = columns["label"]
    if row.kind == "preference":
        value["messages"], chosen, rejected = _pair(row)
        value |= {row.columns["chosen"]: chosen, row.columns["rejected"]: rejected}
    elif row.has("messages"):
        value["messages"] = row.items("messages", row.get("messages"))
    elif row.kind == "prompt" and not row.has("completion"):
        value["messages"] = _turns(row, "prompt", "user")
    else:
        prompt = [_not_learned(turn) for turn in _turns(row, "prompt", "user")]
        value["messages"] = prompt + _turns(row, "completion", "assistant")
    if row.has("images"):
        value["messages"] = _with_places(value["messages"], row.get("images"))
    return sample_of(Row(value, columns, OPENAI_TAGS, row.kind), results_may_follow=True)


def _turns(row: Row, name: str, role: str) -> Turns:
    value = row.need(name)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise BadRow(f"`{row.columns[name]}` must be text or a list of messages", f"it is {kind_of(value)}")
    return value


def _pair(row: Row) -> tuple[Turns, Any, Any]:
    """The prompt, and the one message in which each of `chosen` and `rejected` ends."""
    chosen, rejected = (row.need(name) for name in ("chosen", "rejected"))
    names = f"`{row.columns['chosen']}` and `{row.columns['rejected']}`"
    plain = isinstance(chosen, str) and isinstance(rejected, str)
    if plain and not row.has("prompt"):
        cut = _common_text(chosen, rejected)
        if not chosen[:cut].strip():
            raise BadRow(f"no prompt: {names} do not begin alike")
        good, bad = ([{"role": "assistant", "content": text[cut:]}] for text in (chosen, rejected))
        return [{"role": "user", "content": chosen[:cut]}], good, bad
    good, bad = _turns(row, "chosen", "assistant"), _turns(row, "rejected", "assistant")
    common = next(
        (n for n, (left, right) in enumerate(zip(good, bad, strict=False)) if left != right),
        min(len(good), len(bad)),
    )
    if (len(good) - common, len(bad) - common) != (1, 1):
        raise BadRow(f"{names} must differ in their last message", f"they have {common} in common")
    whole = isinstance(good[0], Mapping) and good[0].get("role") in ("system", "user")
    prompt = [] if whole or not row.has("prompt") else _turns(row, "prompt", "user")
    return prompt + good[:common], good[common], bad[common]


def _common_text(chosen: str, rejected: str) -> int:
    """How many characters two texts have in common at the beginning, without a space before they differ."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    end = next((n for n, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    return end - 1 if end and chosen[end - 1] == " " else end


def _not_learned(turn: Any) -> Any:
    if isinstance(turn, dict) and turn.get("role") == "assistant" and turn.get("train") is None:
        return {**turn, "train": False}
    return turn


def _with_places(turns: Turns, images: Any) -> Turns:
    """The turns with a place for each image before the first question, where they have none, as TRL does."""
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    if any("<image>" in content if isinstance(content, str) else content for content in contents):
        return turns
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and turn.get("role") == "user" and isinstance(turn.get("content"), str):
            count = len(images) if isinstance(images, list) else 1
            placed = {**turn, "content": "<image>" * count + turn["content"]}
            return [*turns[:number], placed, *turns[number + 1 :]]
    return turns


_NAMES = {name: name for name in ("prompt", "completion", "chosen", "rejected", "messages", "text")}
_COLUMNS = {**EXTRA_COLUMNS, **_NAMES, "label": "label"}

TRL = Format(
    name="trl",
    declared=_COLUMNS,
    detected=_COLUMNS,
    tags=OPENAI_TAGS,
    convert=trl_sample,
    needs={
        "supervised": [("prompt", "completion"), ("messages",)],
        "preference": [("chosen", "rejected")],
        "feedback": [("prompt", "completion", "label"), ("prompt", "completion", "kto_tag")],
        "text": [("text",)],
        "prompt": [("prompt",), ("messages",)],
    },
    names=(*_NAMES, "label", "tools", "images", "videos", "audios"),
    ranked=False,
)


class TRLDataset:
    """Reads the format `trl`: `prompt`, `completion`, `label`, `chosen`, `rejected`, `messages` or `text`.

    Each is a text or a list of messages. Plain texts are turns, rendered by the template of the run.
    """

    name = "trl"
    Options = RowOptions
    check = staticmethod(check_streaming)
    kinds, unknown_names = TRL.kinds, TRL.unknown_names
    examples = (
        {"prompt": "Who runs the inn?", "completion": "The user does."},
        {"prompt": "Where is the café?", "completion": "Behind the inn."},
        {"prompt": [{"role": "user", "content": "12 and 12?"}], "completion": "It is 24."},
    )

    @hookimpl
    def load_dataset(self, request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset:
        """Read the entry into canonical rows."""
        from tkernel_plugins.data.rows import load_rows

        return load_rows(request, TRL)


DATASET: Any = TRLDataset()

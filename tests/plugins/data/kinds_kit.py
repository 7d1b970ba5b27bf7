"""Rows of every kind, encoded with small and real templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.conversation import Conversation, Message, message_to_dict
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.data.canonical import features
from tkernel_plugins.data.encoding import Encoder, encoder_for
from tkernel_plugins.data.options import PrepareOptions

IGNORED = -100


def words(*said: str, **last: Any) -> list[dict[str, Any]]:
    """User and assistant in turn, as canonical messages; `last` are fields of the last one."""
    roles = ("user", "assistant")
    messages = [Message(roles[n % 2], text) for n, text in enumerate(said)]
    messages[-1] = Message(messages[-1].role, messages[-1].content, **last)
    return [message_to_dict(message) for message in messages]


def replies(*said: str, **fields: Any) -> list[dict[str, Any]]:
    """Assistant messages."""
    return [message_to_dict(Message("assistant", text, **fields)) for text in said]


def table(kind: str, rows: Sequence[Mapping[str, Any]], media: Sequence[str] = ()) -> Any:
    """Canonical rows as an Arrow table, with their numbers as origin."""
    import pyarrow as pa

    filled = [
        {"tools": None, "origin": {"file": "f.jsonl", "row": n, "line": n + 1}} | dict(row)
        for n, row in enumerate(rows)
    ]
    if kind == "text":
        filled = [{name: row[name] for name in ("text", "origin")} for row in filled]
    return pa.Table.from_pylist(filled, schema=features(kind, media).arrow_schema)


def encoder(
    kind: str, renderer: Any, *, media: Any = None, strict: bool = True, how: Any = None, **options: Any
) -> Encoder:
    """The encoder of rows of `kind`."""
    return encoder_for(
        kind,
        renderer=renderer,
        tokenizer=renderer.tokenizer,
        options=PrepareOptions(**options),
        media=media,
        strict=strict,
        packing=how,
    )


def encode(
    kind: str, renderer: Any, rows: Sequence[Mapping[str, Any]], **fields: Any
) -> list[dict[str, Any]]:
    """The samples of rows of `kind`."""
    given = table(kind, rows, [name for name in ("images", "videos", "audios") if name in rows[0]])
    samples: list[dict[str, Any]] = encoder(kind, renderer, **fields)(given).to_pylist()
    return samples


def toy_turns(conversation: Conversation) -> list[Turn]:
    """`Q:question;A:` and `answer.`, with typed ranges but for what media processors wrote."""
    turns = []
    for asked, reply in exchanges(conversation):
        prompt = [_segment(f"{m.role[0]}:", m, ";a:") for m in asked]
        answer = _segment("", reply, "")
        turns.append(Turn(tuple(prompt), (answer, Segment("</s>", special=True)), reply.train, reply.weight))
    return turns


def _segment(before: str, message: Message, after: str) -> Segment:
    typed, position, shift = [], 0, len(before)
    for start, end in (*sorted(message.expanded), (len(message.content), len(message.content))):
        if start > position:
            typed.append((position + shift, start + shift))
        position = end
    return Segment(before + message.content + after, message.role, typed=tuple(typed))


def built_in(name: str, tokenizer: Any) -> SegmentRenderer:
    """The renderer of a built-in template."""
    (entry,) = {e.value: e for e in entry_points(group="tkernel.template", name=name)}.values()
    renderer: SegmentRenderer = entry.load().renderer(tokenizer)
    return renderer

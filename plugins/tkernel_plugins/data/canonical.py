"""The columns of canonical rows: their Arrow types, and conversations out of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel_plugins.data.frames import frames_of

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

MEDIA = ("images", "videos", "audios")


def features(kind: str, media: Iterable[str] = (), as_bytes: Iterable[str] = ()) -> datasets.Features:
    """The features of rows of `kind`, so that Arrow never guesses a type.

    `media` are the media columns that the dataset has; those also in `as_bytes` hold
    `{"path": str | None, "bytes": bytes | None}`, the others paths or URLs.
    """
    from datasets import Features, List, Value

    text = Value("string")
    message = {
        "role": text,
        "content": text,
        "tool_calls": List({"type": text, "function": {"name": text, "arguments": text}}),
        "reasoning": text,
        "train": Value("bool"),
        "weight": Value("float64"),
    }
    columns: dict[str, Any]
    if kind == "text":
        columns = {"text": text}
    else:
        columns = {"messages": List(message)}
        if kind == "preference":
            columns |= {"chosen": List(message), "rejected": List(message)}
        if kind == "feedback":
            columns |= {"completion": List(message), "label": Value("bool")}
        columns["tools"] = text
        if kind == "prompt":
            columns["columns"] = text  # JSON: what reward functions get, of types that Arrow need not know
    reference = {"path": text, "bytes": Value("binary")}
    columns |= {name: List(reference if name in as_bytes else text) for name in media}
    columns["origin"] = {"file": text, "row": Value("int64"), "line": Value("int64")}
    return Features(columns)


def conversations(table: pa.Table, column: str = "messages") -> list[Conversation]:
    """The conversations in `column` of canonical rows.

    Rows of the built-in formats take a way that reads whole columns; others, which may lack keys of
    a message, go row by row.
    """
    filled = [
        name
        for name in ("tools", *MEDIA)
        if name in table.column_names and table[name].null_count < table.num_rows
    ]
    rest: list[dict[str, Any]] = table.select(filled).to_pylist() if filled else []
    messages = _messages(table[column]) if _is_canonical(table.schema.field(column).type) else None
    if messages is None:
        rows = table[column].to_pylist()
        messages = [Conversation.from_row({"messages": row}).messages for row in rows]
    if not rest:
        return [Conversation(row) for row in messages]
    return [_conversation(row, other) for row, other in zip(messages, rest, strict=True)]


def _conversation(messages: tuple[Message, ...], rest: dict[str, Any]) -> Conversation:
    """`rest` are the other columns of the row."""
    given = rest.get("tools")
    tools = tuple(json.loads(given)) if given else ()
    media = {name: tuple(map(media_value, rest.get(name) or ())) for name in MEDIA}
    return Conversation(messages, tools, **media, empty_tools=bool(given) and not tools)


def media_value(reference: Any) -> Any:
    """A reference as media processors take it: the bytes, or else the path or URL; a tuple of them for a video
    of frames."""
    if isinstance(reference, dict):
        if reference.get("bytes") is not None:
            return reference["bytes"]
        reference = reference["path"]
    return (isinstance(reference, str) and frames_of(reference)) or reference


def _is_canonical(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(
        kind.value_type
    ):
        return False
    struct = kind.value_type
    return {struct.field(i).name for i in range(struct.num_fields)} == {
        *("role", "content", "tool_calls", "reasoning", "train", "weight")
    }


def _messages(column: pa.ChunkedArray) -> list[tuple[Message, ...]] | None:
    """Messages of every row, read column by column; None if some message lacks what it must have."""
    rows: list[tuple[Message, ...]] = []
    for chunk in column.chunks:
        if chunk.null_count:
            return None
        flat = chunk.flatten()
        fields = {flat.type.field(i).name: array for i, array in enumerate(flat.flatten())}
        size = len(flat)
        calls: list[Any] = [()] * size
        if fields["tool_calls"].flatten().null_count < len(fields["tool_calls"].flatten()):
            calls = [
                tuple(
                    ToolCall(call["function"]["name"], call["function"]["arguments"]) for call in value or ()
                )
                for value in fields["tool_calls"].to_pylist()
            ]
        plain = [
            fields[name].to_pylist() if fields[name].null_count < size else [None] * size
            for name in ("role", "content", "reasoning", "train", "weight")
        ]
        every = [
            Message(role, content or "", call, reasoning, train, 1.0 if weight is None else weight)
            for role, content, reasoning, train, weight, call in zip(*plain, calls, strict=True)
        ]
        start = 0
        for length in chunk.value_lengths().to_pylist():
            rows.append(tuple(every[start : start + length]))
            start += length
    return rows

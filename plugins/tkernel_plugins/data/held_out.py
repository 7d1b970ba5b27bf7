"""The conversations that a run is evaluated on, as they are before they become samples."""

from __future__ import annotations

from collections.abc import Iterator

from tkernel.errors import TkError
from tkernel.types.conversation import Conversation
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.canonical import conversations
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.prepare import parts_of

_CHUNK = 100
"""Rows that are read at once."""


def held_out_conversations(request: StageRequest) -> Iterator[Conversation]:
    """Those of `eval_dataset`, or those that `val_size` splits off, in the order in which they are evaluated.

    Rows that are too long to be samples are among them.

    Raises:
        TkError: `val_size` of a stream.
    """
    options: PrepareOptions = request.options or PrepareOptions()
    if any(not hasattr(loaded.rows, "num_rows") for loaded in (*request.train, *request.eval)):
        if options.val_size:
            raise TkError(
                "what `val_size` splits off a stream is known while it is read, and cannot be predicted",
                hint="Name a held-out set: `eval_dataset: NAME`.",
            )
        for loaded in request.eval:
            yield from map(Conversation.from_row, loaded.rows)
        return
    for part in parts_of(request, options):
        if part.name != "train":
            for start in range(0, len(part.rows), _CHUNK):
                table, _ = part.rows.take(slice(start, start + _CHUNK))
                yield from conversations(table)

"""Token ids on which weights are quantised: those of a dataset, texts as they stand, conversations as trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tkernel.errors import ConfigError, TkError
from tkernel.pipeline import Session, load_dataset, open_session
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Renderer

CALLS = ("model", "template", "dataset")


KEYS = ("model_name_or_path", "template", "dataset_dir", "trust_remote_code")


def open_data(session: Session, names: str | None) -> Session:
    """A run that reads the dataset entries or files `names`, else those of the session: conversations or texts.

    Raises:
        TkError: no data are named.
        ConfigError: neither conversations nor texts, or no such dataset.
    """
    data = names or session.settings.get("dataset")
    if not data:
        raise TkError(
            "`export_quantization_bit` needs data to quantise with", hint="Set `export_quantization_dataset`."
        )
    kept = {key: session.settings[key] for key in KEYS if key in session.settings}
    try:
        return open_session({**kept, "dataset": data, "stage": "sft"}, calls=CALLS)
    except ConfigError:
        return open_session({**kept, "dataset": data, "stage": "pt"}, calls=CALLS)


def windows(session: Session, renderer: Renderer, count: int, length: int) -> list[list[int]]:
    """At most `count` windows of ids of one length, `length` or what there is; rows are joined, none is padded.

    Raises:
        TkError: the data have no ids.
    """
    ids = list(itertools.islice(itertools.chain.from_iterable(_rows(session, renderer)), count * length))
    if not ids:
        names = ", ".join(entry.name for entry in session.train)
        raise TkError(
            f"{names}: there is no text to quantise with", hint="Set `export_quantization_dataset`."
        )
    length = min(length, len(ids))
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]


def _rows(session: Session, renderer: Renderer) -> Iterator[Sequence[int]]:
    for entry in session.train:
        for row in load_dataset(session, entry).rows:
            if "messages" in row:
                yield renderer.encode([Conversation.from_row(row)])[0].input_ids
            else:
                yield renderer.tokenizer(row["text"]).input_ids  # type: ignore[attr-defined]

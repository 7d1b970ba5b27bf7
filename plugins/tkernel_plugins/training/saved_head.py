"""The head of a reward model on disk, of whichever kind: beside its last adapter, else beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel.session import Session
from tkernel.types.conversation import Conversation
from tkernel_plugins.sources.hub import hub_folder
from tkernel_plugins.training import score_head, value_head


def attach_saved(model: Any, folders: Sequence[Path]) -> None:
    """Give `model` the head that is saved in the first of `folders` that has one.

    A head that the model has already, as one for classification is loaded with it, stays where no folder has one.

    Raises:
        TkError: there is none, or it was made for a model of another width.
    """
    for folder in folders:
        if value_head.has_saved(folder):
            value_head.load(model, folder)
            return
        if score_head.saved_score(folder) is not None:
            score_head.load(model, folder)
            return
    if value_head.head_of(model) is None:
        raise TkError(
            f"there is neither {value_head.FILE} nor {score_head.KEY} in {' or '.join(map(str, folders))}, so it is "
            "no reward model",
            hint="Train one with `stage: rm`, or name the folder of one.",
        )


def places_of(session: Session) -> list[Path]:
    """The folders that may hold the head of a session's model: those of its adapters, the last first, then its own."""
    names = reversed(session.options.adapter_name_or_path)
    own = session.facts.location
    return [*(_adapter_folder(name, session) for name in names), *([Path(own)] if own is not None else [])]


def _adapter_folder(name: str, session: Session) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    files = (score_head.ADAPTER, score_head.ADAPTER_CONFIG, value_head.FILE)
    access = {"cache_dir": session.settings.get("cache_dir"), "token": session.settings.get("hf_hub_token")}
    return hub_folder(name, files, "an adapter", **access)


def is_for_classification(folders: Sequence[Path]) -> bool:
    """Whether the first of `folders` that has a head has one for classification."""
    for folder in folders:
        if value_head.has_saved(folder):
            return False
        if score_head.saved_score(folder) is not None:
            return True
    return False


def scorer_of(engine: Any, session: Session) -> Callable[[Sequence[Conversation]], list[float]]:
    """What scores conversations that end with a reply, with the engine's model and the head saved with it.

    Raises:
        TkError: an engine that scores nothing, or no head.
    """
    if not hasattr(engine, "score"):
        raise TkError("this engine scores nothing", hint="Use `infer_backend: huggingface`.")
    attach_saved(engine.bundle.module, places_of(session))
    score: Callable[[Sequence[Conversation]], list[float]] = engine.score
    return score

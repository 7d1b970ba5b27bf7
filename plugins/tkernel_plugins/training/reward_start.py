"""The head with which the training of a reward model begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tkernel.types.rendering import Renderer
from tkernel.types.requests import StageRequest
from tkernel_plugins.training import score_head, value_head
from tkernel_plugins.training.reward_trainer import load_head


def give_head(request: StageRequest, pad_token_id: int) -> str:
    """Attach the head that `reward_head` asks for, and say where it is from: a new one is drawn from the seed,
    one that is saved with the adapter or the model is taken over.

    Raises:
        TkError: there is no such head for this model.
    """
    module = request.bundle.module
    kind = value_head.ScoreHead if request.options.reward_head == "classification" else value_head.ValueHead
    present = value_head.head_of(module) is not None
    value_head.attach(module, seed=request.seed, kind=kind)
    if kind is value_head.ScoreHead:
        score_head.classifier_of(module, pad_token_id)
    if present:
        return "head       the model's own"
    for folder in _folders(request):
        if load_head(module, folder):
            return f"head       from {folder}"
    return f"head       new, from seed {request.seed}"


def use_padding(processing: Any, renderer: Renderer) -> int:
    """Make a processor's (or tokenizer's) padding token the one that a model for classification can tell from
    the end of a reply, and return its id."""
    tokenizer = getattr(processing, "tokenizer", None) or processing
    padding = score_head.padding_of(tokenizer, renderer.stop_ids)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    return padding


def _folders(request: StageRequest) -> Iterator[Path]:
    """Where an earlier head may be: the last adapter first, then the model."""
    named = request.settings.get("adapter_name_or_path") or ()
    names = [named] if isinstance(named, str) else list(named)
    for name in (*reversed(names), request.bundle.facts.location):
        if name is not None and Path(str(name)).expanduser().is_dir():
            yield Path(str(name)).expanduser()

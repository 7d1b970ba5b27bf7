"""A reward model for classification, merged and saved as transformers' model for classification with one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tkernel import ModelBundle
from tkernel.errors import TkError
from tkernel.lock import write_lock
from tkernel.pipeline import (
    Session,
    adapt,
    fit_vocabulary,
    load_model,
    open_session,
    render_template,
    start_engine,
)
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Renderer
from tkernel_plugins.exporting.comparing import ScoreGap, score_bound_for
from tkernel_plugins.exporting.folder import LOCK
from tkernel_plugins.exporting.made import Made
from tkernel_plugins.exporting.options import ExportOptions
from tkernel_plugins.exporting.rounding import round_weights
from tkernel_plugins.training.reward_start import use_padding
from tkernel_plugins.training.saved_head import attach_saved, places_of
from tkernel_plugins.training.saving import processing_class
from tkernel_plugins.training.score_head import save_whole

REPLIES = ("It is as you say.", "No idea.")
"""Replies to each question that are scored, to compare models."""


def export_classifier(
    session: Session,
    options: ExportOptions,
    folder: Path,
    dtype: torch.dtype,
    questions: Sequence[Conversation],
    settings: Mapping[str, Any],
    *,
    verify: bool,
) -> Made:
    """Merge, save in `folder`, load back and compare scores.

    Args:
        settings: those with which the folder is loaded back.

    Raises:
        TkError: loaded back it gives other scores.
    """
    asked = [scored(question, reply) for question in questions for reply in REPLIES]
    expected = _scores(session, *_open(session, trainable=True), asked) if verify else None
    bundle, renderer = _open(session, trainable=False)
    module = bundle.module
    round_weights(module, dtype)
    module.score.float()  # as loading makes of what was rounded
    module.config.use_cache = True
    processing = processing_class(bundle, renderer)
    save_whole(module, folder, use_padding(processing, renderer), f"{options.export_size}GB")
    processing.save_pretrained(folder)
    write_lock(folder / LOCK, session.lock(), session.plan)
    said = _scores(session, bundle, renderer, asked)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    del bundle, module
    saved = open_session({**settings, "stage": "rm"}, calls=("model", "template", "engine"))
    bundle = load_model(saved, trainable=False)
    again = _scores(saved, bundle, render_template(saved, bundle), asked)
    if not ScoreGap.between(said, again).largest <= score_bound_for(torch.float32):
        raise TkError(
            f"loaded back, the export does not score as the merged model did: {again}, not {said}",
            hint="This is a defect of tk or of transformers: please report it with the configuration.",
        )
    found = None if expected is None else ScoreGap.between(expected, again)
    bound = options.export_bound or score_bound_for(dtype)
    return Made(str(dtype).removeprefix("torch."), parameters, found, bound)


def scored(question: Conversation, reply: str) -> Conversation:
    """The conversation that ends with `reply`."""
    return replace(question, messages=(*question.messages, Message("assistant", reply)))


def _open(session: Session, *, trainable: bool) -> tuple[ModelBundle, Renderer]:
    """The model with its head, and its adapters merged; with the last one beside the weights if `trainable`."""
    bundle = load_model(session, trainable=False)
    renderer = render_template(session, bundle)
    bundle = fit_vocabulary(bundle, session.options.seed)
    adapted = trainable and bool(session.options.adapter_name_or_path)
    bundle = adapt(session, bundle, renderer, trainable=adapted)
    attach_saved(bundle.module, places_of(session))
    return bundle, renderer


def _scores(
    session: Session, bundle: ModelBundle, renderer: Renderer, asked: Sequence[Conversation]
) -> list[float]:
    engine: Any = start_engine(session, renderer, bundle)
    try:
        found: list[float] = engine.score(asked)
        return found
    finally:
        engine.close()

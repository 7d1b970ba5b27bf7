"""A model with its adapters merged, in a folder that any tool can load."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
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
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Engine, Sampling
from tkernel.types.rendering import Renderer
from tkernel_plugins.exporting.calibration import windows
from tkernel_plugins.exporting.card import write_card
from tkernel_plugins.exporting.classifier import export_classifier
from tkernel_plugins.exporting.comparing import Divergence, bound_for, divergence, logits_of
from tkernel_plugins.exporting.folder import LOCK, new_folder
from tkernel_plugins.exporting.made import Made
from tkernel_plugins.exporting.ollama import modelfile
from tkernel_plugins.exporting.options import ExportOptions
from tkernel_plugins.exporting.quantising import BOUNDS, quantise
from tkernel_plugins.exporting.rounding import round_weights
from tkernel_plugins.models.precision import checkpoint_dtype
from tkernel_plugins.training.saved_head import is_for_classification, places_of
from tkernel_plugins.training.saving import processing_class, save_generation_config

HEAD = "value_head.safetensors"
"""The head of a reward model, beside its weights."""

GREEDY = Sampling(do_sample=False, max_new_tokens=24)


@dataclass(frozen=True)
class Exported:
    """What was written where."""

    folder: Path
    made: Made


def export(
    session: Session,
    options: ExportOptions,
    dtype: torch.dtype,
    probes: Sequence[Conversation],
    *,
    verify: bool,
    calibration: Session | None = None,
) -> Exported:
    """Merge, quantise if that is asked for, save, load back and compare.

    Args:
        session: planned with the precision in which adapters are merged.
        dtype: the precision in which the weights are saved.
        probes: conversations on which what was saved is compared with what it was made of.
        verify: compare logits, or scores, with those of the unmerged model, too.
        calibration: reads the data to quantise with; None where `export_quantization_bit` is not set.

    Raises:
        TkError: what was written is not what it was made of; `export_dir` is left as it was.
    """
    assert options.export_dir is not None
    with new_folder(options.export_dir, overwrite=options.export_overwrite) as folder:
        if is_for_classification(places_of(session)):
            if calibration is not None:
                raise TkError(
                    "a reward model for classification is not quantised",
                    hint="Leave `export_quantization_bit` out.",
                )
            task = "text-classification"
            settings = _settings(session, folder, dtype)
            made = export_classifier(session, options, folder, dtype, probes, settings, verify=verify)
        else:
            task = "text-generation"
            made = _export_language_model(session, options, folder, dtype, probes, verify, calibration)
        if made.found is not None and not made.found.mean <= made.bound:
            raise TkError(
                f"the exported model differs from the adapted one: {made.found}; the bound is {made.bound:g}",
                hint="Export in `infer_dtype: float32`, or raise `export_bound` if that is near enough.",
            )
        write_card(folder, session, session.choice("template").name, task, made)
    return Exported(Path(options.export_dir), made)


def _export_language_model(
    session: Session,
    options: ExportOptions,
    folder: Path,
    dtype: torch.dtype,
    probes: Sequence[Conversation],
    verify: bool,
    calibration: Session | None,
) -> Made:
    expected = _unmerged_logits(session, probes) if verify else None
    bundle = load_model(session, trainable=False)
    renderer = render_template(session, bundle)
    bundle = adapt(session, fit_vocabulary(bundle, session.options.seed), renderer, trainable=False)
    refuse_quantised(bundle)
    module = bundle.module
    round_weights(module, dtype)
    write(folder, session, bundle, renderer, options)
    said = replies(start_engine(session, renderer, bundle), probes)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    del module, bundle
    bits, precision = options.export_quantization_bit, str(dtype).removeprefix("torch.")
    bound = options.export_bound or (bound_for(dtype) if bits is None else BOUNDS[bits])
    if calibration is not None:
        ids = windows(
            calibration, renderer, options.export_quantization_nsamples, options.export_quantization_maxlen
        )
        quantised = quantise(folder, options, ids)
        form = options.export_quantization_format
        precision = f"{bits} bits ({form}, {quantised} linear layers) and {precision}"
    found = _loaded_back(session, folder, dtype, probes, said if bits is None else None, expected)
    return Made(precision, parameters, found, bound)


def saved_dtype(session: Session) -> torch.dtype:
    """`infer_dtype` if it was set, else the precision of the checkpoint."""
    wanted = session.settings.get("infer_dtype")
    if wanted in (None, "auto"):
        return checkpoint_dtype(session.facts)
    dtype = getattr(torch, str(wanted))
    assert isinstance(dtype, torch.dtype)
    return dtype


def write(
    folder: Path, session: Session, bundle: ModelBundle, renderer: Renderer, options: ExportOptions
) -> None:
    """The files: weights, tokenizer with the template's Jinja, processor, generation config, `Modelfile`, lock."""
    module = bundle.module
    module.config.use_cache = True
    module.save_pretrained(folder, max_shard_size=f"{options.export_size}GB")
    processing_class(bundle, renderer).save_pretrained(folder)
    save_generation_config(module, renderer, folder)
    (folder / "Modelfile").write_text(modelfile(renderer, module.config.get_text_config()), encoding="utf-8")
    write_lock(folder / LOCK, session.lock(), session.plan)
    for place in places_of(session):
        if (place / HEAD).is_file():  # that of the last adapter is the one that was trained last
            shutil.copyfile(place / HEAD, folder / HEAD)
            break


def refuse_quantised(bundle: ModelBundle) -> None:
    """Raise if the weights are quantised: an adapter that is merged into them is not the one that was trained."""
    if getattr(bundle.module, "is_quantized", False):
        raise TkError(
            f"the weights of {bundle.facts.name} are quantised, and merging would round the adapter away",
            hint="Merge into the unquantised model: name that in `model_name_or_path`.",
        )


def replies(engine: Engine, conversations: Sequence[Conversation]) -> list[str]:
    """Greedy replies; the engine is closed after."""
    try:
        return [reply.text for reply in engine.reply(conversations, GREEDY)]
    finally:
        engine.close()


def _unmerged_logits(session: Session, probes: Sequence[Conversation]) -> list[torch.Tensor]:
    """What the model says with its last adapter beside the weights, as it was trained."""
    bundle = load_model(session, trainable=False)
    renderer = render_template(session, bundle)
    bundle = fit_vocabulary(bundle, session.options.seed)
    bundle = adapt(session, bundle, renderer, trainable=bool(session.options.adapter_name_or_path))
    return logits_of(bundle.module.eval(), renderer, probes)


def _loaded_back(
    session: Session,
    folder: Path,
    dtype: torch.dtype,
    probes: Sequence[Conversation],
    said: Sequence[str] | None,
    expected: Sequence[torch.Tensor] | None,
) -> Divergence | None:
    """Load the folder as a user would, and compare with what was said before it was written, if that is given."""
    saved = open_session(_settings(session, folder, dtype), calls=("model", "template", "engine"))
    bundle = load_model(saved, trainable=False)
    renderer = render_template(saved, bundle)
    again = replies(start_engine(saved, renderer, bundle), probes)
    for before, after in zip(said or again, again, strict=True):
        if before != after:
            raise TkError(
                f"loaded back, the export does not reply what the merged model did: {after!r}, not {before!r}",
                hint="This is a defect of tk or of transformers: please report it with the configuration.",
            )
    return None if expected is None else divergence(expected, logits_of(bundle.module, renderer, probes))


def _settings(session: Session, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """A run with the exported model, and the template and engine that it had."""
    settings: dict[str, Any] = {
        "model_name_or_path": str(folder),
        "infer_dtype": str(dtype).removeprefix("torch."),
        "template": session.choice("template").name,
        "seed": session.options.seed,
    }
    options = [session.options_of(session.choice(kind)) for kind in ("template", "engine")]
    names = [field.name for each in options if each is not None for field in fields(each)]
    names += ["device_map", "trust_remote_code", "infer_backend"]
    return settings | {name: session.bound.values[name] for name in names if name in session.bound.values}

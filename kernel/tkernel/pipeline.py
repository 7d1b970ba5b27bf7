"""A whole run, top to bottom.

`run` is the program; what follows it are its steps, one per hook. Everything that a step does is done
by the provider that the plan names; see `tkernel.hookspecs` for what each one has to do.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tkernel import lock
from tkernel.errors import TkError
from tkernel.library import library
from tkernel.memory import InMemory, listed, wrong
from tkernel.planning import FOR_TRAINING, open_runs, open_session
from tkernel.session import Session
from tkernel.trace import TRACE
from tkernel.types.bundle import ModelBundle
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.engine import Engine
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel.types.requests import (
    AdapterRequest,
    DatasetRequest,
    EngineRequest,
    MediaRequest,
    ModelRequest,
    StageRequest,
    TemplateRequest,
)
from tkernel.types.stage import StageResult

__all__ = ["FOR_TRAINING", "Session", "open_engine", "open_runs", "open_session", "run", "train", "train_all"]


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    model: Any = None,
    tokenizer: Any = None,
    processor: Any = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    callbacks: Sequence[Any] = (),
) -> StageResult:
    """Train as a YAML file or a mapping says.

    Args:
        config: a file, a `run.lock.json` to replay, or a mapping of the same flat keys.
        overrides: `key=value` strings that win over `config`.
        plugins: names, `no:NAME`, `./file.py`, `pkg.mod:OBJ`, or plugin objects.
        model, tokenizer, processor: use these instead of `model_name_or_path`.
        train_dataset, eval_dataset: rows (dicts, or a `datasets.Dataset`) instead of `dataset`, ...
        callbacks: `transformers.TrainerCallback` instances.

    Returns:
        Metrics, the folder of the result and the trained bundle.

    Raises:
        TkError: see `tkernel.errors`; all that is wrong with the configuration comes at once, before
            anything is loaded.

    Example::

        tkernel.run({"model_name_or_path": "my-model", "dataset": "rows.jsonl", "output_dir": "out"})
    """
    objects = InMemory(model, tokenizer, processor, train_dataset, eval_dataset)
    callbacks = listed("callbacks", callbacks, "`transformers.TrainerCallback` instances")
    for callback in callbacks:
        if not callable(callback) and not any(name.startswith("on_") for name in dir(callback)):
            raise wrong("one of callbacks", callback, "a `transformers.TrainerCallback`")
    runs = open_runs(config, overrides=overrides, plugins=plugins, objects=objects, needs=FOR_TRAINING)
    return train_all(runs, callbacks)


def train_all(sessions: Sequence[Session], callbacks: Sequence[Any] = ()) -> StageResult:
    """Train one run, or the stages of a chain, but for what is finished; the result of the last.

    Raises:
        TkError: an output folder cannot be used; nothing is loaded then.
    """
    if len(sessions) > 1:
        last: StageResult = library("train_chain")(sessions, callbacks)
        return last
    finished: StageResult | None = library("earlier_result")(sessions[0])
    if finished is None:
        return train(sessions[0], callbacks)
    say_finished(finished)
    return finished


def say(line: str) -> None:
    """Print a line once, however many processes the run has."""
    if is_first_process():
        print(line, flush=True)


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that writes and prints for all."""
    return int(os.environ.get("RANK", "0")) == 0


def say_finished(result: StageResult) -> None:
    """Say that a run was done before."""
    say(f"{result.output_dir} is finished after {result.steps} steps; nothing is left to do")


def train(session: Session, callbacks: Sequence[Any] = ()) -> StageResult:
    """Run the training stage of a session, from loading the model to saving the result."""
    library("agree")(session.lock)
    if is_first_process():
        claim_output_dir(session)
    request = stage_request(session, session.output_dir)
    for callback in callbacks:
        request.slots.put("callbacks", callback, by="tkernel.run(callbacks=...)")
    result: StageResult = session.active.call(session.choice("stage"), request)
    if is_first_process():
        mark_finished(session, result)
    return result


def claim_output_dir(session: Session) -> None:
    """Make the output folder, write the lock and start the trace; `earlier_result` has been asked.

    Raises:
        TkError: the folder cannot be written.
    """
    folder = session.output_dir
    if folder is None:
        return
    now = session.lock()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.write_lock(folder / lock.FILE_NAME, now, session.plan)
        if not session.resuming:
            (folder / TRACE).unlink(missing_ok=True)
        session.trace.write_to(folder / TRACE)
    except OSError as error:
        raise TkError(
            f"cannot write to {folder}: {error.strerror}", hint="Choose another output_dir."
        ) from error


def mark_finished(session: Session, result: StageResult) -> None:
    """Write into the lock that the run has ended, and with what."""
    if session.output_dir is not None:
        done = {"steps": result.steps, "metrics": dict(result.metrics)}
        lock.mark(session.output_dir / lock.FILE_NAME, done)


def stage_request(session: Session, output_dir: Path | None = None, *, weights: bool = True) -> StageRequest:
    """What the stage gets: rows, model, template, adapter, media.

    Without `weights`, for looking at data, the bundle has a tokenizer and perhaps no module.
    """
    os.environ.update(session.bound.environment)
    # Rows first: reading them finds most mistakes, and costs less than loading a model.
    rows = [load_dataset(session, entry) for entry in session.train]
    held_out = [load_dataset(session, entry) for entry in session.evaluation]
    bundle = load_model(session, weights=weights)
    renderer = render_template(session, bundle)
    if weights:
        bundle = adapt(session, fit_vocabulary(bundle, session.options.seed), renderer)
    identities = lock.identities(session.plan)
    for choice in (*session.plan.choices, *session.plan.extensions):
        if any(hasattr(session.active.object(choice), hook) for hook in ("render_template", "process_media")):
            identities[f"{lock.key_of(choice)} options"] = repr(session.options_of(choice))
    return StageRequest(
        bundle=bundle,
        renderer=renderer,
        train=rows,
        eval=held_out,
        media=process_media(session, bundle),
        options=session.options_of(session.choice("stage")),
        arguments=session.bound.arguments,
        output_dir=output_dir,
        seed=session.options.seed,
        settings=session.resolved(),
        identities=identities,
        load_model=partial(load_other, session, renderer) if weights else None,
        open_engine=partial(start_engine, session, renderer) if weights else None,
    )


def load_model(
    session: Session, role: str = "policy", trainable: bool = True, weights: bool = True
) -> ModelBundle:
    """The model in its role; a model given in memory is taken as it is."""
    other = session.others.get(role)
    if session.objects.model is not None and other is None:
        given = session.objects
        module = given.model if role == "policy" else copy.deepcopy(given.model)
        return ModelBundle(module, given.tokenizer, session.facts, given.processor, role)
    choice = session.choice("model", role if other else None)
    request = ModelRequest(
        facts=other.facts if other else session.facts,
        options=session.options_of(choice),
        role=role,
        trainable=trainable,
        weights=weights,
        arguments=session.bound.arguments,
        seed=session.options.seed,
        settings=session.resolved(),
    )
    bundle: ModelBundle = session.active.call(choice, request)
    return bundle


def load_other(session: Session, renderer: Renderer, role: str) -> ModelBundle:
    """A further model of the stage, frozen, with its adapters: a reference, a reward model, a teacher."""
    bundle = load_model(session, role, trainable=False)
    other = session.others.get(role)
    adapters = other.adapters if other else session.options.adapter_name_or_path
    if renderer.added_tokens:
        bundle.tokenizer.add_tokens(list(renderer.added_tokens), special_tokens=True)
    bundle = fit_vocabulary(bundle, session.options.seed)
    return adapt(session, bundle, renderer, trainable=False, adapters=adapters)


def render_template(session: Session, bundle: ModelBundle) -> Renderer:
    """The renderer for the bundle's tokenizer."""
    choice = session.choice("template")
    request = TemplateRequest(
        name=choice.name,
        tokenizer=bundle.tokenizer,
        facts=session.facts,
        options=session.options_of(choice),
    )
    renderer: Renderer = session.active.call(choice, request)
    return renderer


def fit_vocabulary(bundle: ModelBundle, seed: int) -> ModelBundle:
    """Grow the embeddings if the template has added tokens for which there are no rows yet."""
    rows = bundle.module.get_input_embeddings().weight.shape[0]
    if len(bundle.tokenizer) > rows:
        import torch

        # The new rows are drawn; a seed of their own makes them the same in every run.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            bundle.module.resize_token_embeddings(len(bundle.tokenizer))
    return bundle


def adapt(
    session: Session,
    bundle: ModelBundle,
    renderer: Renderer,
    trainable: bool = True,
    adapters: tuple[str, ...] | None = None,
) -> ModelBundle:
    """The bundle with what is trained decided, or with the adapters of earlier runs for inference."""
    if adapters is None:
        adapters = session.options.adapter_name_or_path
    if not trainable and not adapters:
        return bundle
    choice = session.choice("adapter")
    added = bundle.tokenizer.convert_tokens_to_ids(list(renderer.added_tokens))
    request = AdapterRequest(
        options=session.options_of(choice),
        adapters=adapters,
        trainable=trainable,
        new_tokens=tuple(dict.fromkeys((*bundle.new_tokens, *added))),
        lora_targets=tuple(getattr(session.active.object(session.choice("model")), "lora_targets", ())),
        arguments=session.bound.arguments,
        seed=session.options.seed,
        settings=session.resolved(),
    )
    adapted: ModelBundle = session.active.call(choice, request, bundle)
    return adapted


def process_media(session: Session, bundle: ModelBundle) -> MediaProcessor | None:
    """The processor of images, video and audio; None for a model that takes none."""
    choice = session.plan.chosen("media")
    if choice is None:
        return None
    media_dir = session.options.media_folder
    request = MediaRequest(bundle=bundle, options=session.options_of(choice), media_dir=media_dir)
    media: MediaProcessor = session.active.call(choice, request)
    return media


def load_dataset(session: Session, entry: DatasetEntry) -> LoadedDataset:
    """The canonical rows of one dataset, with what was counted on the way."""
    choice = session.choice("dataset", entry.name)
    report = DatasetReport(entry.name)
    stage = session.active.object(session.choice("stage"))
    request = DatasetRequest(
        entry=entry,
        report=report,
        rows=getattr(stage, "rows", "supervised"),
        identity=lock.identities(session.plan).get(f"dataset {entry.name}"),
        options=session.options_of(choice),
        media_dir=session.options.media_folder,
        seed=session.options.seed,
    )
    return LoadedDataset(entry, session.active.call(choice, request), report)


def open_engine(session: Session) -> Engine:
    """An engine for the session's model and adapters, ready to talk.

    One whose `capabilities` lack `bundle` finds the weights itself: it gets a tokenizer, and no module.
    """
    engine = session.active.object(session.choice("engine"))
    weights = "bundle" in getattr(engine, "capabilities", ("bundle",))
    bundle = load_model(session, trainable=False, weights=weights)
    renderer = render_template(session, bundle)
    if weights:
        bundle = adapt(session, fit_vocabulary(bundle, session.options.seed), renderer, trainable=False)
    return start_engine(session, renderer, bundle)


def start_engine(
    session: Session, renderer: Renderer, bundle: ModelBundle, seed: int | None = None
) -> Engine:
    """The run's engine on a bundle in memory; without a seed it draws with that of the run."""
    choice = session.choice("engine")
    request = EngineRequest(
        renderer=renderer,
        bundle=bundle,
        facts=session.facts,
        adapters=session.options.adapter_name_or_path,
        media=process_media(session, bundle),
        options=session.options_of(choice),
        seed=session.options.seed if seed is None else seed,
        settings=session.resolved(),
    )
    engine: Engine = session.active.call(choice, request)
    return engine

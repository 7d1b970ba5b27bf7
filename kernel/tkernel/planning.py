"""From settings to a plan with typed options. Plugins are imported, torch and its like are not."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel import lock
from tkernel.activate import Active, Loader, activate
from tkernel.check import check
from tkernel.choose import KEYS, MOST_NAMES, choose
from tkernel.config.bind import Key, Owner, bind, run_options
from tkernel.config.convert import convert
from tkernel.config.options import RunOptions
from tkernel.config.settle import Settings, settle
from tkernel.doors import object_entry, open_doors
from tkernel.errors import ConfigError, Problem, TkError, UsageError
from tkernel.finding import find_datasets, find_facts, hub_arguments, missing, missing_adapters
from tkernel.hookspecs import KINDS
from tkernel.index import Index, read_index
from tkernel.library import library
from tkernel.memory import InMemory, listed, wrong
from tkernel.other_models import ADAPTERS, Coming, OtherModel, OtherModels
from tkernel.pins import Pins, Wanted, use_names
from tkernel.session import Session
from tkernel.shape import implementations
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Plan

FOR_TRAINING = ("model_name_or_path", "dataset", "output_dir")
"""Keys without which `tk run` has nothing to do."""

IN_MEMORY = "plugins=[...]"
"""The origin of plugin objects that a notebook gives."""


def open_session(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    objects: InMemory | None = None,
    needs: Sequence[str] = ("model_name_or_path",),
    calls: Collection[str] = tuple(KINDS),
    command: Owner | None = None,
) -> Session:
    """Plan a run and validate all of it, in about a second.

    Args:
        config: a YAML or JSON file, a `run.lock.json`, a mapping, or nothing.
        overrides: words of the command line: `--key value`, `--key=value`, `key=value`.
        plugins: `--plugin` values: names, `no:NAME`, files, `pkg.mod:OBJ`; or plugin objects.
        objects: a model, tokenizer or data in memory.
        needs: keys without which the caller has nothing to do.
        calls: kinds of plugins that the caller will call; only these are asked to `check` the run.
        command: the options of the command itself, if it has any: `session.bound.options(command.label)`.

    Raises:
        ConfigError: everything that is wrong with the configuration, at once.
        NoProvider, AmbiguousProvider, UnusedPlugin: if that is the only thing that is wrong.
        PluginError: a chosen plugin is broken.
        LockMismatch: `config` is a lock, and something is not what it was.
        UsageError: `config` has several stages; see `open_runs`.
    """
    settings = settle(config, listed("overrides", overrides, "words, `key=value`"))
    if settings.get("stages"):
        hint = "`tk run` and `tk plan` take it whole; each stage that ran has a run.lock.json of its own."
        raise UsageError("one run is wanted, and this is a chain of `stages:`", hint=hint)
    session = bind_draft(draft(settings, plugins, objects or InMemory(), needs), calls, command=command)
    if str(config).endswith(lock.SUFFIX):
        refuse_replay(Path(str(config)), session)
    return session


def open_runs(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    objects: InMemory | None = None,
    needs: Sequence[str] = ("model_name_or_path",),
) -> list[Session]:
    """As `open_session`, of a file that may have `stages:`: the runs of the chain in their order, or one."""
    settings = settle(config, listed("overrides", overrides, "words, `key=value`"))
    if settings.get("stages"):
        chain: list[Session] = library("open_chain")(settings, plugins, objects or InMemory(), needs)
        return chain
    return [open_session(config, overrides=overrides, plugins=plugins, objects=objects, needs=needs)]


@dataclass
class Draft:
    """A run whose plugins are chosen and whose keys have no owners yet, with all that is wrong so far."""

    settings: Settings
    run: RunOptions
    facts: ModelFacts | None
    train: tuple[DatasetEntry, ...]
    evaluation: tuple[DatasetEntry, ...]
    objects: InMemory
    index: Index
    plan: Plan
    active: Active
    arguments: Mapping[str, Key]
    asked: tuple[str, ...]
    others: Mapping[str, OtherModel]
    coming: Coming
    problems: list[Problem]
    errors: list[TkError]
    """What choosing found: each has a type of its own."""

    def owners(self) -> list[Owner]:
        """Chosen plugins and extensions with the dataclasses of their options."""
        found: dict[str, Owner] = {}
        for choice in (*self.plan.choices, *self.plan.extensions):
            options = self.active.options_class(choice)
            found.setdefault(choice.label, Owner(choice.label, choice.distribution, options))
        return list(found.values())


def draft(
    settings: Settings,
    plugins: Sequence[Any],
    objects: InMemory,
    needs: Sequence[str],
    coming: Coming | None = None,
) -> Draft:
    """Find the model and the data of a run and choose its plugins."""
    coming = coming or {}
    cold: list[Problem] = []
    if "warm_start" in settings:
        settings, cold = library("warm_start")(settings)
    run, problems = run_options(settings)
    problems += cold
    if settings or not settings.problems:  # a file that cannot be read has no keys to miss
        problems += missing(settings, needs, objects)
    facts, wrong = find_facts(run, settings, objects, coming)
    problems += wrong
    adapters = [name for name in run.adapter_name_or_path if name not in coming]
    problems += missing_adapters(adapters, settings, "adapter_name_or_path")
    train, wrong = find_datasets("dataset", run, settings, objects.train_dataset)
    problems += wrong
    evaluation, wrong = find_datasets("eval_dataset", run, settings, objects.eval_dataset)
    problems += wrong

    index, pins = find_pins(run, settings, listed("plugins", plugins, "names or plugin objects"))
    loader = Loader()
    others = OtherModels(settings, facts, hub_arguments(settings), coming)
    plan, errors = choose(settings, (*train, *evaluation), facts, index, pins, loader, others.find)
    problems += others.problems
    for role, other in others.found.items():
        adapters = [name for name in other.adapters if name not in coming]
        problems += missing_adapters(adapters, settings, others.keys[role] + ADAPTERS)
    active = activate(plan, index, loader)
    problems += wrong_rows(plan, active, (*train, *evaluation))
    arguments = find_arguments(plan, active)
    asked = tuple(pin.name for pin in pins.plugins if pin.origin != IN_MEMORY)
    return Draft(
        settings=settings,
        run=run,
        facts=facts,
        train=train,
        evaluation=evaluation,
        objects=objects,
        index=index,
        plan=plan,
        active=active,
        arguments=arguments,
        asked=asked,
        others=others.found,
        coming=coming,
        problems=problems,
        errors=errors,
    )


def bind_draft(
    draft: Draft, calls: Collection[str], elsewhere: Collection[str] = (), command: Owner | None = None
) -> Session:
    """The run with typed options; see `open_session`. Keys in `elsewhere` belong to another stage of the chain."""
    run, objects = draft.run, draft.objects
    names = (
        run.dataset if objects.train_dataset is None else ("dataset",),
        run.eval_dataset if objects.eval_dataset is None else ("eval_dataset",),
    )
    coming = {folder: bool(made and made.adapters) for folder, made in draft.coming.items()}
    try:
        bound = bind(
            draft.settings,
            [*draft.owners(), *([command] if command else [])],
            draft.arguments,
            installed=draft.index.entries,
            consumed=use_names(draft.index),
            elsewhere=elsewhere,
            problems=list(dict.fromkeys([*draft.problems, *(error.problem() for error in draft.errors)])),
            check=lambda bound: check(draft.active, bound, draft.facts, names, calls, coming),
        )
    except ConfigError as error:
        if draft.errors and len(error.problems) == 1:  # the one thing that is wrong keeps its type
            raise draft.errors[0] from None
        raise
    for extension in draft.plan.extensions:
        draft.active.bind(extension, bound.options(extension.label))
    if draft.facts is None:  # what is wrong was told of the stage that should make the model
        raise ConfigError([])
    return Session(
        settings=draft.settings,
        bound=bound,
        facts=draft.facts,
        plan=draft.plan,
        active=draft.active,
        train=draft.train,
        evaluation=draft.evaluation,
        objects=objects,
        plugins=draft.asked,
        others=draft.others,
        coming=tuple(draft.coming),
    )


def find_pins(run: RunOptions, settings: Settings, plugins: Sequence[Any]) -> tuple[Index, Pins]:
    """The index with every door opened, and what is preferred, blocked or extended."""
    index = read_index()
    wanted = [Wanted(name, settings.origin("plugins")) for name in run.plugins]
    objects = []
    for plugin in plugins:
        if isinstance(plugin, str):
            wanted.append(Wanted(plugin, "--plugin"))
        else:
            if not implementations(plugin):
                hint = "Put @hookimpl on a method of its class."
                raise wrong("one of plugins", plugin, "a name, or an object with a hook,", hint)
            door = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
            objects.append(object_entry(plugin, door, door))
            wanted.append(Wanted(door, IN_MEMORY))
    index = index.adding(objects)
    named = [Wanted(str(settings[key]), settings.origin(key)) for key in KEYS.values() if settings.get(key)]
    doors = {pin.name: pin.origin for pin in (*named, *wanted) if pin.origin != IN_MEMORY}
    for name, origin in doors.items():
        try:
            index = open_doors([name], index)
        except TkError as error:
            error.origin = error.origin or origin
            raise
    used = [
        key for key in use_names(index) if key in settings and convert(settings.setting(key), bool, {})[0]
    ]
    return index, Pins(tuple(wanted), tuple(Wanted(key, settings.origin(key)) for key in used))


def wrong_rows(plan: Plan, active: Active, entries: Iterable[DatasetEntry]) -> list[Problem]:
    """What datasets declare that their format does not know, and those whose rows the stage cannot use."""
    stage = plan.chosen("stage")
    wanted = getattr(active.object(stage), "rows", None) if stage else None
    lacks = {
        "supervised": "replies (a `response` column, or `messages`)",
        "preference": "`ranking: true` and the columns `chosen` and `rejected`",
        "feedback": "a `kto_tag` column",
    }
    problems: list[Problem] = []
    for entry in entries:
        choice = plan.chosen("dataset", entry.name)
        plugin: Any = active.object(choice) if choice else None
        problems += plugin.unknown_names(entry) if hasattr(plugin, "unknown_names") else []
        fixed = (getattr(plugin, "rows", entry.rows), "prompt")
        kinds = (plugin.kinds(entry) or (wanted,)) if hasattr(plugin, "kinds") else fixed
        if stage is None or wanted is None or wanted in kinds:
            continue
        lacking = f"; it lacks {lacks[wanted]} in dataset_info.json" if wanted in lacks else ""
        if (wanted, kinds[0]) == ("supervised", "feedback"):
            lacking = ""  # it has replies, and says besides which were liked
        if not entry.formatting and entry.seen:
            lacking = f"; its columns are {', '.join(entry.seen[:MOST_NAMES])}"
        message = (
            f"stage {stage.name} needs {wanted} rows, and dataset {entry.name!r} has {kinds[0]} rows{lacking}"
        )
        problems.append(Problem(message, entry.origin, "dataset"))
    return problems


def find_arguments(plan: Plan, active: Active) -> Mapping[str, Key]:
    """The keys of the training arguments of the stage, or the usual ones where choosing found no stage."""
    stage = plan.chosen("stage")
    target = getattr(active.object(stage), "training_arguments", None) if stage else None
    if stage and target is None:
        return {}
    keys: dict[str, Key] = library("training_arguments")(target)
    return keys


def refuse_replay(path: Path, session: Session) -> None:
    """Raise `LockMismatch` if plugins, versions or contents are not those of the lock.

    Settings are not compared: a replay takes them from the lock, and an override of one is meant.
    """
    locked, problems = lock.read_lock(path)
    if locked is None:
        raise ConfigError(problems)
    lock.refuse(path, lock.difference(lock.contents(locked), lock.contents(session.lock())))

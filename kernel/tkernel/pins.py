"""What the user asks for, prefers and blocks, and which plugins a name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tkernel.config.suggest import did_you_mean, near
from tkernel.errors import BrokenPlugin, NoProvider, TkError
from tkernel.index import ALL_KINDS, Entry, Index, normalise


@dataclass(frozen=True)
class Wanted:
    """A name that somebody wrote, and where (`train.yaml:3`, `--plugin`)."""

    name: str
    origin: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})" if self.origin else self.name


@dataclass(frozen=True)
class Pins:
    """Preferences. `plugins` in the order of `plugins:`, each one of: a distribution (with or without
    `tk-`), an entry point's name, `kind:name`, `dist:name`, an opened door, or `no:` before one of the
    first four. `uses` are keys `use_NAME` that were set to true.
    """

    plugins: tuple[Wanted, ...] = ()
    uses: tuple[Wanted, ...] = ()


@dataclass(frozen=True)
class Pin:
    """A preference, resolved."""

    wanted: Wanted
    entries: tuple[Entry, ...]
    exact: bool
    """It names plugins one by one (a door, `kind:name`, `dist:name`); these go before the others."""


def use_names(index: Index) -> dict[str, str]:
    """Keys `use_NAME` -> the pin that each stands for: the distribution `tk-NAME`, else extension NAME."""
    names = {
        f"use_{e.name.replace('-', '_')}": f"extension:{e.name}"
        for e in index.entries
        if e.kind == "extension"
    }
    for distribution in index.distributions:
        if normalise(distribution).startswith("tk-"):
            names["use_" + normalise(distribution)[3:].replace("-", "_")] = distribution
    return names


def named_by(spec: str, entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], bool]:
    """The plugins that `spec` names, and whether it names them one by one."""
    doors = tuple(e for e in entries if e.door == spec)
    if doors:
        return doors, True
    left, colon, right = spec.rpartition(":")
    if colon and left in ALL_KINDS:
        return tuple(e for e in entries if e.kind == left and e.name == right), True
    if colon:
        return tuple(e for e in entries if same_distribution(e.distribution, left) and e.name == right), True
    return tuple(e for e in entries if is_of(e, spec) or spec in (e.name, e.variant)), False


def blocked_by(pins: Pins, index: Index) -> dict[Entry, Wanted]:
    """Blocked plugins -> the `no:X` that blocks each."""
    blocks = [(pin, pin.name.removeprefix("no:")) for pin in pins.plugins if pin.name.startswith("no:")]
    return {entry: pin for pin, spec in blocks for entry in named_by(spec, index.entries)[0]}


def resolve(pins: Pins, index: Index, blocked: Mapping[Entry, Wanted]) -> tuple[list[Pin], list[TkError]]:
    """The plugins that each preference stands for, and the preferences and blocks that name nothing."""
    found: list[Pin] = []
    errors: list[TkError] = []
    free = [entry for entry in index.entries if entry not in blocked]
    aliases = use_names(index)
    uses = [(use, aliases.get(use.name, use.name.removeprefix("use_"))) for use in pins.uses]
    for wanted, name in [*((pin, pin.name) for pin in pins.plugins), *uses]:
        spec = name.removeprefix("no:")
        blocking = spec != name
        entries, exact = named_by(spec, index.entries if blocking else free)
        if entries and not blocking:
            found.append(Pin(wanted, entries, exact))
        elif not entries:
            error = _unknown_pin(wanted, spec, index, blocked)
            if not (blocking and isinstance(error, BrokenPlugin)):  # it provides nothing, as wished
                errors.append(error)
    return found, errors


def _unknown_pin(wanted: Wanted, spec: str, index: Index, blocked: Mapping[Entry, Wanted]) -> TkError:
    """Why a preference or a block names nothing: unreadable metadata, blocked, or a mistyped name."""
    origin = wanted.origin
    for problem in index.problems:
        if normalise(problem.distribution) in (normalise(spec), f"tk-{normalise(spec)}"):
            hint = f"Run: pip install --force-reinstall {problem.distribution}"
            return BrokenPlugin(f"the metadata of {problem}", origin=origin, hint=hint)
    for entry in named_by(spec, tuple(blocked))[0]:
        message = f"{entry} is asked for and blocked by {blocked[entry]}."
        return NoProvider(message, origin=origin, hint="Take out one of the two.")
    known = {e.name for e in index.entries} | {e.variant for e in index.entries if e.variant}
    known |= set(index.distributions)
    left, colon, right = spec.rpartition(":")
    close = did_you_mean(spec, known)
    if colon and (nearby := near(right, known)):
        close = f"Did you mean '{left}:{nearby[0]}'?"
    install = spec if spec.startswith("tk-") else f"tk-{right}"
    hint = close or f"If it is a distribution of its own: pip install {install}"
    return NoProvider(f"no installed plugin or distribution is named {spec!r}.", origin=origin, hint=hint)


def preference(name: str, origin: str | None) -> str:
    """How `name` is preferred, in the spelling of who wrote something at `origin`."""
    return f"`--plugin {name}`" if origin == "--plugin" else f"`plugins: [{name}]`"


def same_distribution(distribution: str, spelled: str) -> bool:
    """Whether `spelled` is this distribution's name, as pip compares names."""
    return normalise(distribution) == normalise(spelled)


def is_of(entry: Entry, spec: str) -> bool:
    """Whether `spec` is the name of the entry's distribution, with or without `tk-`."""
    return entry.door is None and normalise(entry.distribution) in (normalise(spec), f"tk-{normalise(spec)}")

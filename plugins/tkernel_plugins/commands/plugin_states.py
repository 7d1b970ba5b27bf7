"""The state of every installed plugin, from metadata alone. Not a plugin; the library of `tk plugins list`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from tkernel.errors import IncompatibleApi
from tkernel.index import Entry, Index
from tkernel.module_file import file_of
from tkernel.pins import Pins, blocked_by
from tkernel.requirements import installed_version, unmet
from tkernel.types.plan import Plan

State = Literal["available", "active", "blocked", "shadowed", "incompatible", "broken"]


@dataclass(frozen=True)
class PluginState:
    """One row of `tk plugins list`. `kind` and `name` are empty for metadata that cannot be read."""

    kind: str
    name: str
    distribution: str
    version: str
    state: State
    detail: str = ""
    """Why, and what helps."""


def plugin_states(index: Index, plan: Plan | None = None, pins: Pins | None = None) -> list[PluginState]:
    """The state of each plugin, sorted by kind and name; imports nothing.

    *active* it is in `plan` · *blocked* by `no:X` in `pins` · *shadowed* another distribution registers
    its name too, or another copy of its distribution comes first on the path · *incompatible* needs
    another `tkernel` · *broken* misses a requirement, its module, or its metadata cannot be read ·
    *available* otherwise. A module that fails on import is found out when it is asked for, not here.
    """
    blocked = blocked_by(pins or Pins(), index)
    choices = (*plan.choices, *plan.extensions) if plan else ()
    chosen = {(c.kind, c.name, c.distribution, c.target) for c in choices}
    version_of, found = cache(installed_version), cache(file_of)

    def state(entry: Entry) -> tuple[State, str]:
        if (entry.kind, entry.name, entry.distribution, entry.target) in chosen:
            return "active", ""
        if entry in blocked:
            return "blocked", f"by {blocked[entry]}"
        if (error := unmet(entry, version_of)) is not None:
            which: State = "incompatible" if isinstance(error, IncompatibleApi) else "broken"
            return which, " ".join(filter(None, (error.message, error.hint)))
        module = entry.target.partition(":")[0]
        if entry.door is None and found(module) is None:
            remedy = f"pip install --force-reinstall {entry.distribution}"
            return "broken", f"There is no module {module}; run: {remedy}"
        others = [e for e in index.find(entry.kind, entry.name) if e != entry and e not in blocked]
        if others:
            owners = ", ".join(e.owner for e in others)
            return "shadowed", f"{owners} registers it too; say {entry.distribution}:{entry.name}"
        return "available", ""

    def row(entry: Entry, state: State, detail: str) -> PluginState:
        return PluginState(entry.kind, entry.name, entry.distribution, entry.version, state, detail)

    rows = [row(entry, *state(entry)) for entry in index.entries]
    other = "another copy comes first; this one is in"
    rows += [row(entry, "shadowed", f"{other} {entry.location}") for entry in index.shadowed]
    rows += [PluginState("", "", p.distribution, p.version, "broken", str(p)) for p in index.problems]
    return sorted(rows, key=lambda row: (row.kind, row.name, row.distribution, row.version))

"""Keys that nobody in the run owns: what was meant, who owns them, what asks for nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import Any

from tkernel.choose import DEFAULTS, KEYS
from tkernel.config.convert import convert
from tkernel.config.read import Setting
from tkernel.config.settle import Settings
from tkernel.config.suggest import did_you_mean, near
from tkernel.errors import Problem
from tkernel.hookspecs import PROJECT
from tkernel.index import Entry
from tkernel.trial import trial

CHOSEN_BY: Mapping[str, str] = {
    **KEYS,
    "extension": "plugins",
    "model": "model_name_or_path",
    "media": "model_name_or_path",
    "dataset": "dataset",
    "command": "the command",
}
"""Kind of plugin -> the key that decides which one a run uses."""

TIME_LIMIT, TRIAL_LIMIT = 10.0, 4.0
"""Seconds in which the options of all plugins must be read, and after which one that hangs is left out."""

ABSENT: Mapping[str, str] = {
    "megatron_bridge": "Megatron Bridge",
    "mcore_adapter": "Megatron-Core",
    "ktransformers": "KTransformers",
    "hyper_parallel": "HyperParallel",
    "v1": "LLaMA-Factory's own v1 kernels",
}
"""Groups of `llamafactory.json` that belong to systems which `tk` does not have."""


def explain(
    unowned: Sequence[Setting],
    known: Collection[str],
    chosen: Sequence[str],
    installed: Sequence[Entry],
    settings: Settings,
) -> tuple[list[Problem], list[str]]:
    """Problems of keys without an owner, and notes on those of LLaMA-Factory that ask for nothing.

    Args:
        known: the keys of this run.
        chosen: labels of its plugins, `adapter:lora`.
        installed: all plugins; those that are not chosen are imported in a child process.
    """
    facts: dict[str, dict[str, Any]] = json.loads(
        resources.files("tkernel_plugins.keys").joinpath("llamafactory.json").read_text("utf-8")
    )
    elsewhere: dict[str, list[Entry]] = {}
    if any(facts.get(setting.key, {}).get("group") not in ABSENT for setting in unowned):
        others = [
            entry
            for entry in installed
            if entry.kind in CHOSEN_BY and entry.door is None and f"{entry.kind}:{entry.name}" not in chosen
        ]
        for plugin, keys in options_of(others):
            for key in keys:
                elsewhere.setdefault(key, []).append(plugin)
    problems: list[Problem] = []
    asking_nothing: list[Setting] = []
    for setting in unowned:
        key, fact = setting.key, facts.get(setting.key)
        if key in elsewhere:
            problems += _of_another_plugin(setting, elsewhere[key], chosen, settings)
        elif fact and _is_default(setting, fact["default"]):
            asking_nothing.append(setting)
        elif fact and fact["group"] in ABSENT:
            message = f"{key} belongs to {ABSENT[fact['group']]}, which tk does not have"
            problems.append(Problem(message, setting.origin, key, "Take the line out."))
        elif fact:
            message = f"{key} is a LLaMA-Factory key that no installed plugin provides"
            problems.append(Problem(message, setting.origin, key, "What is installed: tk plugins list"))
        else:
            hint = did_you_mean(key, known) or _near_elsewhere(key, elsewhere) or did_you_mean(key, facts)
            hint = hint or "The keys of this run and their owners: tk plan FILE --json"
            problems.append(Problem(f"unknown key {key!r}", setting.origin, key, hint))
    return problems, _notes(asking_nothing)


def options_of(plugins: Sequence[Entry]) -> list[tuple[Entry, tuple[str, ...]]]:
    """The option names of each plugin, read in a child process; one that fails, hangs or exits is left out.

    The kernel's own come first; an object with several names is told under the first.
    """
    first: dict[str, Entry] = {}
    for plugin in sorted(plugins, key=lambda p: (p.distribution != PROJECT, p.distribution, p.kind, p.name)):
        first.setdefault(plugin.target, plugin)
    waiting, found = list(first.values()), []
    deadline = time.monotonic() + TIME_LIMIT
    while waiting and (rest := deadline - time.monotonic()) > 0:
        names, _ = trial([plugin.target for plugin in waiting], min(rest, TRIAL_LIMIT))
        found += [(plugin, tuple(keys)) for plugin, keys in zip(waiting, names, strict=False) if keys]
        waiting = waiting[len(names) + 1 :]  # the first without an answer is what ended the child
    return found


def _is_default(setting: Setting, default: Any) -> bool:
    if isinstance(default, bool | int | float):
        return bool(convert(setting, type(default), {})[0] == default)
    return bool(setting.value == default)


def _of_another_plugin(
    setting: Setting, plugins: Sequence[Entry], chosen: Sequence[str], settings: Settings
) -> list[Problem]:
    kind, name = plugins[0].kind, plugins[0].name
    owners = " and ".join(_named(plugin) for plugin in plugins[:3]) + (" and others" if plugins[3:] else "")
    selector = CHOSEN_BY[kind]
    here = [label for label in chosen if label.startswith(f"{kind}:")]
    if not here and (kind in DEFAULTS or (kind == "dataset" and kind in settings)):
        return []  # every run has one; that it is missing is told elsewhere, and its keys are not to blame
    origin = settings.origin(selector)
    where = f" ({selector} at {origin})" if origin else f" (the default of {selector})" if here else ""
    message = f"{setting.key} belongs to {owners}; this run uses {' and '.join(here) or f'no {kind}'}{where}"
    get = {
        "extension": f"plugins: [{name}]",
        "model": f"a model of type {name}",
        "media": f"a model whose media {name} processes",
        "dataset": f"data in the format {name}",
        "command": f"`tk {name}`",
    }.get(kind, f"{selector}: {name.partition('.')[0]}")
    return [Problem(message, setting.origin, setting.key, f"Take the line out, or use {get}.")]


def _named(plugin: Entry) -> str:
    return f"{plugin.kind}:{plugin.name}" + (
        "" if plugin.distribution == "tkernel" else f" ({plugin.distribution})"
    )


def _near_elsewhere(key: str, elsewhere: Mapping[str, Sequence[Entry]]) -> str | None:
    names = [f"{name!r} of {_named(elsewhere[name][0])}" for name in near(key, elsewhere, limit=1)]
    return f"Did you mean {names[0]}, which this run does not use?" if names else None


def _notes(settings: Sequence[Setting]) -> list[str]:
    if not settings:
        return []
    keys = ", ".join(f"{setting.key} ({setting.origin})" for setting in settings)
    return [f"at LLaMA-Factory's default, so nothing is asked for, and no plugin reads it: {keys}"]

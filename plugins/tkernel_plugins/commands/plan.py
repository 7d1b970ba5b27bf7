"""`tk plan`: what a run would be made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tkernel.cli.arguments import Plugins, split_file
from tkernel.config.suggest import did_you_mean
from tkernel.errors import UsageError
from tkernel.pipeline import Session, open_runs
from tkernel.types.plan import Choice
from tkernel_plugins.commands.screen import origin, show_notes, table
from tkernel_plugins.keys.renames import RENAMES


def plan(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    why: Annotated[str | None, typer.Option(help="Say where the value of a key comes from.")] = None,
) -> None:
    """Show every choice of a run with its reason; loads nothing.

    Example:  tk plan examples/support.yaml --why learning_rate
    """
    path, overrides = split_file(file, ctx.args)
    runs = open_runs(path, overrides=overrides, plugins=plugin or ())
    if why is not None:
        found = [(session, lines) for session in runs if (lines := key_lines(session, why))]
        if not found:
            hint = did_you_mean(why, {key for session in runs for key in session.bound.keys})
            raise UsageError(f"no plugin of this run has a key {why!r}", hint=hint)
        for session, lines in found:
            print("\n".join([*heading(session), *lines]))
    elif as_json:
        plans = [plan_as_json(session) for session in runs]
        print(json.dumps({"stages": plans} if runs[0].name else plans[0], indent=2, default=str))
    else:
        for session in runs:
            show_plan(session)
        show_notes(*runs)


def plan_rows(session: Session) -> list[tuple[str, str, str, str]]:
    """Hook, provider, distribution and version, and why, one row per choice."""

    def row(choice: Choice) -> tuple[str, str, str, str]:
        hook = f"{choice.hook} {choice.subject}" if choice.subject else choice.hook
        return hook, f"{choice.kind}:{choice.name}", origin(choice.distribution, choice.version), why(choice)

    return [row(choice) for choice in (*session.plan.choices, *session.plan.extensions)]


def why(choice: Choice) -> str:
    """How a provider was chosen, and the reason in words."""
    return choice.reason if choice.how == "extension" else f"{choice.how}: {choice.reason}"


def show_plan(session: Session) -> None:
    """The table of a plan."""
    facts = session.facts
    for line in heading(session):
        print(line)
    print(f"model   {facts.name}  ({facts.source}, model_type {facts.model_type})")
    print(table(plan_rows(session), ("hook", "provider", "distribution", "why")))


def heading(session: Session) -> list[str]:
    """What is above a stage of a chain."""
    return [f"stage {session.name}, to {session.output_dir}"] if session.name else []


def plan_as_json(session: Session) -> dict[str, Any]:
    """The same for programs."""
    facts = session.facts
    named = {"name": session.name, "output_dir": session.options.output_dir} if session.name else {}
    return {
        **named,
        "model": {"name": facts.name, "source": facts.source, "model_type": facts.model_type},
        "choices": [asdict(choice) for choice in session.plan.choices],
        "extensions": [asdict(choice) for choice in session.plan.extensions],
        "settings": {
            key: {"value": session.settings[key], "origin": session.settings.origin(key)}
            for key in session.settings
        },
        "notes": list(session.bound.notes),
    }


def key_lines(session: Session, key: str) -> list[str]:
    """Where the value of `key` came from and who owns it; nothing if the run has no such key."""
    rename = RENAMES.get(key)
    owned = session.bound.keys.get(key)
    if owned is None:
        known = rename is not None and (key in session.settings or rename.new in session.bound.keys)
        return [f"{key} is now {rename.new.removeprefix('$')}"] if known and rename and rename.new else []
    # What was written under an older name is in the bound settings alone.
    history = session.settings.history(key) or session.bound.settings.history(key)
    value = repr(history[-1].value) if history else owned.default
    lines = [
        f"{key} = {value}",
        f"  owner    {owned.owner} ({owned.distribution})",
        f"  default  {owned.default}",
    ]
    return lines + [f"  set to   {setting.value!r} at {setting.origin}" for setting in history]

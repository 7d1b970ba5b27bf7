"""`tk plan`: what a run would be made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tkernel.cli.arguments import split_file
from tkernel.cli.run import Plugins
from tkernel.cli.screen import origin, show_notes, table
from tkernel.config.renames import RENAMES
from tkernel.config.suggest import did_you_mean
from tkernel.errors import UsageError
from tkernel.pipeline import Session, open_session
from tkernel.types.plan import Choice


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
    session = open_session(path, overrides=overrides, plugins=plugin or ())
    if why is not None:
        if not show_key(session, why):
            hint = did_you_mean(why, session.bound.keys)
            raise UsageError(f"no plugin of this run has a key {why!r}", hint=hint)
    elif as_json:
        print(json.dumps(plan_as_json(session), indent=2, default=str))
    else:
        show_plan(session)


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
    print(f"model   {facts.name}  ({facts.source}, model_type {facts.model_type})")
    print(table(plan_rows(session), ("hook", "provider", "distribution", "why")))
    show_notes(session)


def plan_as_json(session: Session) -> dict[str, Any]:
    """The same for programs."""
    facts = session.facts
    return {
        "model": {"name": facts.name, "source": facts.source, "model_type": facts.model_type},
        "choices": [asdict(choice) for choice in session.plan.choices],
        "extensions": [asdict(choice) for choice in session.plan.extensions],
        "settings": {
            key: {"value": session.settings[key], "origin": session.settings.origin(key)}
            for key in session.settings
        },
        "notes": list(session.bound.notes),
    }


def show_key(session: Session, key: str) -> bool:
    """Where the value of `key` came from and who owns it; False if the run has no such key."""
    rename = RENAMES.get(key)
    if key not in session.bound.keys and rename is not None and rename.new is not None:
        print(f"{key} is now {rename.new.removeprefix('$')}")
        return key in session.settings or rename.new in session.bound.keys
    owned = session.bound.keys.get(key)
    if owned is None:
        return False
    # What was written under an older name is in the bound settings alone.
    history = session.settings.history(key) or session.bound.settings.history(key)
    value = repr(history[-1].value) if history else owned.default
    print(f"{key} = {value}")
    print(f"  owner    {owned.owner} ({owned.distribution})")
    print(f"  default  {owned.default}")
    for setting in history:
        print(f"  set to   {setting.value!r} at {setting.origin}")
    return True

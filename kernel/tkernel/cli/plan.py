"""`tk plan`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tkernel.cli.arguments import split_file
from tkernel.cli.run import Plugins
from tkernel.cli.screen import plan_as_json, show_key, show_plan
from tkernel.config.suggest import did_you_mean
from tkernel.errors import UsageError
from tkernel.pipeline import open_session


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

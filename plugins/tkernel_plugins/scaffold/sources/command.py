"""`tk demo`."""

from typing import Annotated

import typer

from tkernel.cli.arguments import split_file
from tkernel.pipeline import open_session


def show(ctx: typer.Context, file: Annotated[str | None, typer.Argument(help="YAML file")] = None) -> None:
    """Print the model and the plugins of a run.

    Example:  tk demo train.yaml
    """
    path, overrides = split_file(file, ctx.args)
    session = open_session(path, overrides=overrides)
    print(session.facts.name)
    for choice in session.plan.choices:
        print(f"  {choice.kind}:{choice.name}")


COMMAND = show

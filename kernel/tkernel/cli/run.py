"""`tk run`."""

from __future__ import annotations

from typing import Annotated

import typer

from tkernel.cli.arguments import split_file
from tkernel.cli.screen import show_notes
from tkernel.pipeline import FOR_TRAINING, open_runs, train_all
from tkernel.processes import world

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Prefer a plugin (NAME), block one (no:NAME), or load one from ./file.py or pkg.mod:OBJ.",
    ),
]


def run(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    plugin: Plugins = None,
) -> None:
    """Train as FILE says; `--key value`, `--key=value` and `key=value` override it.

    Example:  tk run examples/support.yaml --learning_rate 1e-5 --plugin resources
    """
    path, overrides = split_file(file, ctx.args)
    runs = open_runs(path, overrides=overrides, plugins=plugin or (), needs=FOR_TRAINING)
    first = world()[0] == 0
    if first:
        show_notes(*runs)
    result = train_all(runs)
    if first and len(runs) == 1 and result.bundle is not None:
        print(f"saved to {result.output_dir} after {result.steps} steps")

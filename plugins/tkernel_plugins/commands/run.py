"""`tk run`: train."""

from __future__ import annotations

from typing import Annotated

import typer

from tkernel.cli.arguments import Plugins, split_file


def run(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    plugin: Plugins = None,
) -> None:
    """Train as a YAML file says, or replay a run.lock.json.

    `--key value`, `--key=value` and `key=value` override what is in FILE.

    Example:  tk run examples/support.yaml --learning_rate 1e-5 --plugin resources
    """
    from tkernel.pipeline import FOR_TRAINING, is_first_process, open_runs, train_all
    from tkernel_plugins.commands.screen import show_notes
    from tkernel_plugins.deferred import deferred
    from tkernel_plugins.garbage import seldom_searched
    from tkernel_plugins.read_once import models_read_once

    path, overrides = split_file(file, ctx.args)
    with seldom_searched(), deferred(), models_read_once():
        runs = open_runs(path, overrides=overrides, plugins=plugin or (), needs=FOR_TRAINING)
        if is_first_process():
            show_notes(*runs)
        result = train_all(runs)
    if is_first_process() and len(runs) == 1 and result.bundle is not None:
        print(f"saved to {result.output_dir} after {result.steps} steps")

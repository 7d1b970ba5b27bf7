"""`tk data stats`: how long samples are, and what batches of them cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tkernel.cli.arguments import Plugins, split_file
from tkernel.errors import TkError
from tkernel_plugins.commands.data_run import prepared_run, session_of


def stats(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="The YAML or JSON file of a run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the histograms into a PNG file.")] = None,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; unset: WORLD_SIZE, or 1.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Count samples, tokens and lengths, padding and packing at the configured batch, and steps.

    FILE is prepared as `tk run` prepares it, without loading weights; `key=value` overrides it. A percentile
    is the length that so many percent of the samples do not exceed. Padding is that of the first epoch, in
    the order in which the trainer draws the samples.

    Example:  tk data stats train.yaml --per_device_train_batch_size 8 --png lengths.png
    """
    path, overrides = split_file(file, ctx.args)
    run = prepared_run(session_of(path, overrides, plugin or ()), path)
    from tkernel_plugins.data.look.on_terminal import show, width
    from tkernel_plugins.data.look.statistics import statistics_of
    from tkernel_plugins.data.look.statistics_text import draw, statistics_json, statistics_lines
    from tkernel_plugins.training.epoch import plan_batches

    processes = world_size or int(os.environ.get("WORLD_SIZE") or 1)
    found = statistics_of(
        run.request,
        run.prepared,
        run.kind,
        lambda lengths: plan_batches(run.request, run.kind, lengths, processes),
    )
    if as_json:
        values = {"file": run.file, "rows": run.kind, "template": run.request.renderer.name}
        print(json.dumps({**values, **statistics_json(found)}))
    else:
        show(statistics_lines(found, width()))
    if png is not None:
        try:
            draw(found, png)
        except OSError as error:
            raise TkError(f"cannot write {png}: {error.strerror}", hint="Choose another file.") from error
        typer.echo(f"wrote {png}", err=True)

"""`tk data prepare`: the preparation of a run, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tkernel.cli.arguments import Plugins, split_file
from tkernel.errors import TkError
from tkernel_plugins.commands.data_run import prepared_run, session_of


def prepare(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="The YAML or JSON file of a run")] = None,
    report: Annotated[Path | None, typer.Option(help="Save the report there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Prepare the data of a run without training, so that the run finds it in the cache.

    FILE is prepared as `tk run` prepares it, without loading weights; `key=value` overrides it. Of a stream one
    pass is read, so that mistakes in it are found now; nothing of it is kept. The report is saved to --report, else to data_report.json in `output_dir` if that is set.

    Example:  tk data prepare train.yaml --report report.json
    """
    path, overrides = split_file(file, ctx.args)
    session = session_of(path, overrides, plugin or ())
    run = prepared_run(session, path)
    from tkernel_plugins.data.prepare import REPORT
    from tkernel_plugins.data.progress import Progress
    from tkernel_plugins.data.report import PreparationReport

    if not hasattr(run.prepared.train, "num_rows") and run.prepared.train is not None:
        with Progress("read the stream", None) as progress:
            for _ in run.prepared.train:
                progress.advance(1)
    values = run.prepared.report.to_json()
    if as_json:
        print(json.dumps(values))
    else:
        for line in PreparationReport.lines(run.prepared.report):
            print(line)
    folder = session.options.output_dir
    target = report if report is not None else Path(folder) / REPORT if folder is not None else None
    if target is not None:
        _save(target, json.dumps(values, indent=2, ensure_ascii=True) + "\n")
        typer.echo(f"wrote {target}", err=True)


def _save(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TkError(
            f"cannot write {target}: {error.strerror}", hint="Choose another file: --report FILE"
        ) from error

"""`tk export`: a model with its adapters merged, for any tool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from tkernel.cli.arguments import Plugins
from tkernel.config.bind import Owner
from tkernel.planning import Session, open_session
from tkernel_plugins.exporting.options import ExportOptions

NEEDS = ("model_name_or_path", "export_dir")
CALLS = ("model", "adapter", "template", "engine")


def export(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare logits with the unmerged model, and fail past `export_bound`.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Merge the adapters of FILE into the model and save it in `export_dir`, with tokenizer and template.

    Weights are merged in float32 and saved in `infer_dtype`, else in the checkpoint's precision. What was saved is
    loaded back and must give the same greedy replies. `export_quantization_bit=4` quantises them.

    Example:  tk export examples/support.yaml adapter_name_or_path=out/support export_dir=out/merged --verify
    """
    from tkernel.cli.arguments import split_file
    from tkernel_plugins.commands.screen import show_notes

    path, overrides = split_file(file, ctx.args)
    session = _session(path, overrides, plugin or ())
    options: ExportOptions = session.bound.options(OWNER.label)
    show_notes(session)
    from tkernel_plugins.exporting.export import export as run
    from tkernel_plugins.exporting.export import saved_dtype
    from tkernel_plugins.exporting.hub import push
    from tkernel_plugins.exporting.probes import BUILT_IN, conversations_of, probes_of
    from tkernel_plugins.training.quiet import quiet

    calibration = None
    if options.export_quantization_bit is not None:
        from tkernel_plugins.exporting.calibration import open_data
        from tkernel_plugins.exporting.quantising import check_installed

        check_installed()
        calibration = open_data(session, options.export_quantization_dataset)
    dtype = saved_dtype(session)
    merging = [*overrides, "infer_dtype=float32"] if "infer_dtype" in session.bound.keys else overrides
    if options.export_device == "cpu" and "device_map" in session.bound.keys:
        merging = [*merging, "device_map=cpu"]
    session = _session(path, merging, plugin or ())
    probes = probes_of(session) if verify else conversations_of(BUILT_IN)
    with quiet():
        done = run(session, options, dtype, probes, verify=verify, calibration=calibration)
    typer.echo(f"saved {done.made.parameters:,} parameters in {done.made.precision} to {done.folder}")
    if done.made.found is not None:
        typer.echo(f"verified on {len(probes)} prompts: {done.made.found}")
    if options.export_hub_model_id is not None:
        token = session.settings.get("hf_hub_token")
        private = options.export_hub_private
        typer.echo(
            f"uploaded to {push(done.folder, options.export_hub_model_id, token=token, private=private)}"
        )


OWNER = Owner("command:export", "tkernel", ExportOptions)


def _session(path: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> Session:
    return open_session(path, overrides=overrides, plugins=plugins, needs=NEEDS, calls=CALLS, command=OWNER)


export.Options = ExportOptions  # type: ignore[attr-defined]
COMMAND = export

"""`tk predict`: replies to a whole dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from tkernel.cli.arguments import Plugins

ASKS = ("do_train=false", "do_predict=true", "predict_with_generate=true")
"""What `tk run` is told to do the same."""


def predict(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    plugin: Plugins = None,
) -> None:
    """Reply to every conversation of the held-out data of FILE, and compare with the replies that are there.

    The data are `eval_dataset`, or what `val_size` splits off, else all of `dataset`. Replies are in
    `output_dir/generated_predictions.jsonl`; `resume_from_checkpoint=true` goes on with what was stopped.

    Example:  tk predict examples/support.yaml adapter_name_or_path=out/support output_dir=out/replies
    """
    from tkernel.cli.arguments import split_file
    from tkernel.config.settle import settle
    from tkernel.pipeline import FOR_TRAINING, open_session, train_all
    from tkernel_plugins.commands.screen import show_notes

    path, overrides = split_file(file, ctx.args)
    words = [*overrides, *ASKS]
    settings = settle(path, words)
    if "eval_dataset" not in settings and not settings.get("val_size") and settings.get("dataset"):
        named = settings["dataset"]
        names = named if isinstance(named, str) else ",".join(map(str, named))
        words += [f"eval_dataset={names}", "dataset=null"]
    session = open_session(path, overrides=words, plugins=plugin or (), needs=FOR_TRAINING)
    show_notes(session)
    print(f"saved to {train_all([session]).output_dir}")


COMMAND = predict

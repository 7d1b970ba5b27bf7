"""`tk chat`: talk to a model, or get one reply."""

from __future__ import annotations

from typing import Annotated

import typer


def chat(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    prompt: Annotated[str | None, typer.Option(help="Print the reply to this and end.")] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="As in `tk run`.")] = None,
) -> None:
    """Talk to the model and adapters of FILE, or print one reply with --prompt.

    Example:  tk chat examples/support.yaml --prompt "Who are you?" --temperature 0.2
    """
    from tkernel.cli.arguments import split_file
    from tkernel.pipeline import open_engine, open_session
    from tkernel_plugins.commands.chat_loop import Chat, answer
    from tkernel_plugins.training.quiet import quiet

    path, overrides = split_file(file, ctx.args)
    calls = ("model", "adapter", "template", "media", "engine")
    session = open_session(path, overrides=overrides, plugins=plugin or (), calls=calls)
    with quiet():
        engine = open_engine(session)
    try:
        if prompt is not None:
            answer(engine, prompt, system)
        else:
            Chat(engine, system).loop()
    finally:
        engine.close()


COMMAND = chat

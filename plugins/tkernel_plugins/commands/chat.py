"""`tk chat`: talk to a model, or get one reply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def chat(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Print the reply to this and end. A reward model scores replies to it.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    tools: Annotated[
        Path | None, typer.Option(help="A JSON list of tools, in OpenAI's format, that the model may call.")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="As in `tk run`.")] = None,
) -> None:
    """Talk to the model and adapters of FILE, or print one reply with --prompt.

    A reward model (`stage: rm`) does not talk. The first line typed is a message, or --prompt is; each line after
    it is a reply to it, whose score is printed. /next keeps the last reply and goes on with the next message.

    Example:  tk chat examples/support.yaml --prompt "Who are you?" --temperature 0.2
    """
    from tkernel.cli.arguments import split_file
    from tkernel.pipeline import open_engine, open_session
    from tkernel_plugins.commands.chat_loop import Chat, answer, read_tools
    from tkernel_plugins.commands.chat_scores import Scores
    from tkernel_plugins.training.quiet import quiet

    path, overrides = split_file(file, ctx.args)
    calls = ("model", "adapter", "template", "media", "engine")
    session = open_session(path, overrides=overrides, plugins=plugin or (), calls=calls)
    offered = read_tools(tools) if tools is not None else ()
    with quiet():
        engine = open_engine(session)
    try:
        if session.options.stage == "rm":
            from tkernel_plugins.training.saved_head import scorer_of

            Scores(scorer_of(engine, session), system, prompt).loop()
        elif prompt is not None:
            answer(engine, prompt, system, offered)
        else:
            Chat(engine, system, offered).loop()
    finally:
        engine.close()


COMMAND = chat

"""`tk parity`: the same prompts through every installed engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from tkernel.cli.arguments import Plugins
from tkernel.errors import TkError
from tkernel.planning import Session, open_session
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Sampling

PROMPTS = ("Name the capital of France.", "Count from one to five.")


@dataclass(frozen=True)
class Said:
    """What an engine makes of the prompts; `problem` if it cannot."""

    engine: str
    texts: tuple[str, ...] = ()
    problem: str | None = None


def parity(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A question; may be given several times.")] = None,
    tokens: Annotated[int, typer.Option(help="Length of the replies.")] = 24,
    plugin: Plugins = None,
) -> None:
    """Print the ids of the same prompts, and the greedy replies of every installed engine; exit 1 if they differ.

    Engines run in `infer_dtype: float32` unless FILE says otherwise: in lower precision replies may differ rightly.

    Example:  tk parity examples/support.yaml adapter_name_or_path=out/support --prompt "Who are you?"
    """
    from tkernel.cli.arguments import split_file
    from tkernel.index import read_index

    path, overrides = split_file(file, ctx.args)
    prompts = prompt or PROMPTS
    session = open_session(path, overrides=overrides, plugins=plugin or (), calls=("model", "template"))
    for ids in _prompt_ids(session, prompts):
        typer.echo(f"prompt {' '.join(map(str, ids))}")
    found = [
        _ask(name, _settings_for(name, session), plugin or (), prompts, tokens)
        for name in read_index().names("engine")
    ]
    for said in found:
        typer.echo(f"{said.engine}: {said.problem}" if said.problem else said.engine)
        for text in said.texts:
            typer.echo(f"  {text!r}")
    able = [said for said in found if said.problem is None]
    if not able:
        raise typer.Exit(1)
    different = [said.engine for said in able[1:] if said.texts != able[0].texts]
    if different:
        typer.echo(f"different from {able[0].engine}: {', '.join(different)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"equal: {', '.join(said.engine for said in able)}")


def _prompt_ids(session: Session, prompts: Sequence[str]) -> list[list[int]]:
    """What the template makes of the prompts, which is what every engine is fed."""
    from tkernel.pipeline import load_model, render_template

    renderer = render_template(session, load_model(session, trainable=False, weights=False))
    return [renderer.prompt_ids(conversation) for conversation in _conversations(prompts)]


def _settings_for(engine: str, session: Session) -> dict[str, Any]:
    """The settings, in float32 unless that is set; keys of the engine that they name are no other one's."""
    choice = session.choice("engine")
    options = session.options_of(choice)
    own = {field.name for field in (fields(options) if options is not None and choice.name != engine else ())}
    settings = {key: value for key, value in session.settings.items() if key not in own}
    precision = {"infer_dtype": "float32"} if "infer_dtype" in session.bound.keys else {}
    return precision | settings | {"infer_backend": engine}


def _conversations(prompts: Sequence[str]) -> list[Conversation]:
    return [Conversation((Message("user", text),)) for text in prompts]


def _ask(
    engine: str, settings: Mapping[str, Any], plugins: Sequence[Any], prompts: Sequence[str], tokens: int
) -> Said:
    """The greedy replies of one engine."""
    from tkernel.pipeline import open_engine
    from tkernel_plugins.training.quiet import quiet

    calls = ("model", "adapter", "template", "engine")
    session = open_session(settings, plugins=plugins, calls=calls)
    try:
        with quiet():
            running = open_engine(session)
    except TkError as error:
        return Said(engine, problem=str(error))
    try:
        greedy = Sampling(do_sample=False, max_new_tokens=tokens)
        replies = running.reply(_conversations(prompts), greedy)
        return Said(engine, tuple(reply.text for reply in replies))
    except TkError as error:
        return Said(engine, problem=str(error))
    finally:
        running.close()


COMMAND = parity

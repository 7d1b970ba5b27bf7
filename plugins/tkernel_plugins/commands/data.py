"""See what a model is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tkernel.errors import UsageError
from tkernel_plugins.commands import data_cache
from tkernel_plugins.commands.data_prepare import prepare
from tkernel_plugins.commands.data_stats import stats
from tkernel_plugins.commands.data_view import view

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="See what a model is trained on.",
    epilog="Example:  tk data view examples/support.yaml",
)


@app.callback()
def data() -> None:
    pass


# What such a command does not know itself overrides the configuration, as in `tk run`.
_OVERRIDES = {"ignore_unknown_options": True, "allow_extra_args": True}
for _command in (view, stats, prepare):
    app.command(context_settings=_OVERRIDES)(_command)
app.add_typer(data_cache.app, name="cache")


@app.command()
def render(
    tokenizer: Annotated[str, typer.Option(help="A folder with a tokenizer, or its name on the hub.")],
    template: Annotated[
        str | None, typer.Option(help="A template, or its file; for lines that name none.")
    ] = None,
    conversation: Annotated[Path | None, typer.Option(help="A JSON file: messages, system, tools.")] = None,
    jsonl: Annotated[Path | None, typer.Option(help="Many conversations, one JSON object a line.")] = None,
    enable_thinking: Annotated[
        str | None, typer.Option("--enable_thinking", help="true, false or null (unset).")
    ] = None,
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD, for templates that print the date.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show conversations as a template renders them: prompts and replies, ids and labels.

    With --jsonl one JSON object is printed for each line, {"error": ...} where a conversation cannot be
    rendered. Beside the conversation a line may have: template, date, enable_thinking, preserve_thinking,
    default_system, tool_format, cutoff_len, mask_history, train_on_prompt. Other keys are passed over.

    Example:  tk data render --template qwen3 --tokenizer models/qwen3 --conversation chat.json --json
    """
    if (conversation is None) == (jsonl is None):
        raise UsageError("give one of --conversation FILE and --jsonl FILE")
    defaults = given(template=template, date=date, enable_thinking=enable_thinking)
    from tkernel_plugins.commands.rendered import Renderings, shown

    renderings = Renderings(tokenizer, template)
    if jsonl is not None:
        for rendered in renderings.of_lines(jsonl, defaults):
            print(json.dumps(rendered))
    elif conversation is not None:
        rendered = renderings.of_file(conversation, defaults)
        print(json.dumps(rendered) if as_json else shown(rendered))


def given(enable_thinking: str | None, **values: str | None) -> dict[str, Any]:
    """The options of the command line as values of a line."""
    found: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    if enable_thinking is not None:
        words = {"true": True, "false": False, "null": None}
        if enable_thinking not in words:
            raise UsageError(f"--enable_thinking is true, false or null, not {enable_thinking!r}")
        found["enable_thinking"] = words[enable_thinking]
    return found

"""The `tk` command: a typer app whose subcommands are imported when they are called.

Exit codes: 0 done, 1 a run failed, 2 the request was wrong, 3 a plugin is broken, 4 data is bad,
130 interrupted with Ctrl-C, 143 with SIGTERM.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from tkernel.errors import TkError
from tkernel.module_file import file_of

EPILOG = """Example:  tk run examples/support.yaml --learning_rate 1e-5

Exit codes:  0 done · 1 the run failed · 2 the request was wrong · 3 a plugin is broken · 4 data is bad ·
130 interrupted with Ctrl-C · 143 with SIGTERM
"""


class Commands(TyperGroup):
    """Looks subcommands up by name: each is a plugin of kind `command`, imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(plugin_commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in (targets := plugin_commands()):
            return as_command(cmd_name, load_command(cmd_name))
        self.commands: Any = targets  # a suggestion is looked for among these names
        return None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(target)) for name, target in plugin_commands().items()])


def plugin_commands() -> dict[str, str]:
    """Name -> `module:attribute` of the installed plugins of kind `command`."""
    from tkernel.index import read_index

    index = read_index()
    return {name: index.find("command", name)[0].target for name in index.names("command")}


def load_command(name: str) -> Any:
    """Import one command plugin, with the checks that every plugin gets."""
    from tkernel.activate import Loader
    from tkernel.errors import AmbiguousProvider
    from tkernel.index import read_index

    found = read_index().find("command", name)
    if len(found) > 1:
        owners = " and ".join(entry.owner for entry in found)
        raise AmbiguousProvider(
            f"the command {name!r} is registered by {owners}", hint="Uninstall one of them."
        )
    return Loader()(found[0])


def as_command(name: str, target: Any) -> Any:
    """A click command from a function or a typer app.

    A function that takes `ctx: typer.Context` gets what it does not know itself in `ctx.args`
    (overrides such as `--learning_rate 1e-5`); every other one refuses unknown options.
    """
    if isinstance(target, typer.Typer):
        command = typer.main.get_command(target)
    else:
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        takes_context = "ctx" in getattr(target, "__annotations__", {})
        settings = {"ignore_unknown_options": True, "allow_extra_args": True} if takes_context else {}
        single.command(context_settings=settings)(target)
        command = typer.main.get_command(single)
    command.name = name
    return command


def summary(target: str) -> str:
    """The first line of a command's docstring, read from its source without importing it."""
    module, _, attribute = target.partition(":")
    source = file_of(module)
    if source is None or source.suffix != ".py":
        return ""
    tree = ast.parse(source.read_bytes())
    documented = {
        node.name: ast.get_docstring(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    # `COMMAND = chat` names a function of the same module.
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            for name in node.targets:
                if isinstance(name, ast.Name):
                    documented[name.id] = documented.get(node.value.id)
    text = documented.get(attribute) or ast.get_docstring(tree) or ""
    return text.split("\n")[0]


app = typer.Typer(
    name="tk",
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
    help="Fine-tune, align, serve and export language models.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    pass


def main() -> None:
    """The console script: errors that are meant for the user are printed without a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(guarded(app))


def _terminated(number: int, frame: object) -> None:
    """SIGTERM ends as Ctrl-C does, through every `finally`; a training run takes it over and saves first."""
    print("tk: terminated", file=sys.stderr)
    raise SystemExit(128 + number)


def guarded(call: Callable[[], object]) -> int:
    """Run `call` and turn errors into exit codes; `TK_TRACEBACK=1` shows where they came from."""
    try:
        call()
    except TkError as error:
        if os.environ.get("TK_TRACEBACK"):
            raise
        print(f"tk: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tk: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `tk plan f.yaml | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0

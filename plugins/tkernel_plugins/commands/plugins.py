"""List, show, test and create plugins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tkernel.activate import Loader
from tkernel.cli.arguments import Plugins
from tkernel.config.suggest import did_you_mean
from tkernel.errors import NoProvider, TkError, UsageError
from tkernel.hookspecs import KINDS
from tkernel.index import ALL_KINDS, Entry, Index, read_index
from tkernel_plugins.commands.plugin_states import PluginState, plugin_states
from tkernel_plugins.commands.screen import origin, table

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="List, show, test and create plugins.",
    epilog="Example:  tk plugins list template",
)

KINDS_HELP = "One of: " + ", ".join(ALL_KINDS)


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Argument(help=KINDS_HELP)] = None,
    run: Annotated[str | None, typer.Option(help="A YAML or JSON file: what is active in that run.")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List installed plugins with their state.

    Without `--run` and doors, none of them is imported.

    Example:  tk plugins list template --run examples/support.yaml
    """
    if kind is not None and kind not in ALL_KINDS:
        raise UsageError(f"there is no kind {kind!r}", hint=did_you_mean(kind, ALL_KINDS) or KINDS_HELP)
    states = [state for state in states_of(run, plugin or ()) if kind in (None, state.kind)]
    if as_json:
        print(json.dumps([asdict(state) for state in states], indent=2))
        return
    print(table([row(state) for state in states], ("plugin", "distribution", "state")))


def states_of(run: str | None, plugins: Sequence[str]) -> list[PluginState]:
    """The states in a run, if there is one, with what `--plugin` prefers, blocks and opens."""
    if run is None and not plugins:
        return plugin_states(read_index())
    from tkernel.config.bind import run_options
    from tkernel.config.settle import settle
    from tkernel.planning import find_pins, open_session

    plan = None if run is None else open_session(run, plugins=plugins).plan
    settings = settle(run)
    index, pins = find_pins(run_options(settings)[0], settings, plugins)
    return plugin_states(index, plan, pins)


def row(state: PluginState) -> tuple[str, str, str]:
    """One line of the list."""
    plugin = f"{state.kind}:{state.name}" if state.kind else "?"
    detail = f"{state.state}: {state.detail}" if state.detail else state.state
    return plugin, origin(state.distribution, state.version), detail


@app.command()
def show(plugin: Annotated[str, typer.Argument(help="NAME, KIND:NAME or DISTRIBUTION:NAME")]) -> None:
    """Show where a plugin comes from, and its options.

    Example:  tk plugins show adapter:lora
    """
    loader = Loader()
    for entry in named(read_index(), plugin):
        print(f"{entry.kind}:{entry.name}")
        print(f"  from      {entry.distribution} {entry.version}, {entry.target}")
        # A command is a function or an app; it has a help text instead of options.
        if entry.kind == "command":
            print(f"  run       tk {entry.name} --help")
        else:
            describe(loader(entry))


def describe(plugin: Any) -> None:
    """The docstring, the static facts and the options of a plugin object."""
    text = (type(plugin).__doc__ or "").strip().split("\n")[0]
    if text and not dataclasses.is_dataclass(plugin):
        print(f"  about     {text}")
    for fact in ("default_template", "media", "lora_targets", "rows", "training_arguments", "import_first"):
        if value := getattr(plugin, fact, None):
            print(f"  {fact:9} {', '.join(value) if isinstance(value, tuple) else value}")
    options = getattr(plugin, "Options", None)
    if options is None:
        return
    print("  options")
    rows = [(f"    {f.name}", shown(f.type), f"= {shown_default(f)}") for f in dataclasses.fields(options)]
    print(table(rows))


def shown(annotation: Any) -> str:
    """A type as it is written."""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def shown_default(item: dataclasses.Field[Any]) -> str:
    """The default of a field as it is written."""
    if item.default is not dataclasses.MISSING:
        return repr(item.default)
    return repr(item.default_factory()) if item.default_factory is not dataclasses.MISSING else "(required)"


def named(index: Index, spec: str) -> list[Entry]:
    """The plugins that `NAME`, `KIND:NAME` or `DISTRIBUTION:NAME` stands for; at least one."""
    left, _, name = spec.rpartition(":")
    found = [e for e in index.entries if e.name == name and left in ("", e.kind, e.distribution)]
    if not found:
        known = [*(e.name for e in index.entries), *(f"{e.kind}:{e.name}" for e in index.entries)]
        raise NoProvider(
            f"no installed plugin is named {spec!r}",
            hint=did_you_mean(spec, known) or "What is installed: tk plugins list",
        )
    return found


@app.command()
def test(
    plugin: Annotated[str, typer.Argument(help="KIND:NAME, as in tk plugins list")],
) -> None:
    """Run the contract suite of a plugin.

    Example:  tk plugins test adapter:lora
    """
    from tkernel.testing.run import run_contract

    kind, colon, name = plugin.partition(":")
    if not colon:
        kinds = sorted({entry.kind for entry in named(read_index(), plugin)})
        if len(kinds) > 1:
            hint = f"Say which one: {' or '.join(f'{kind}:{plugin}' for kind in kinds)}."
            raise UsageError(f"{plugin!r} is the name of {len(kinds)} plugins", hint=hint)
        kind, name = kinds[0], plugin
    if code := run_contract(kind, name):
        raise typer.Exit(code)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help=KINDS_HELP)],
    name: Annotated[str, typer.Argument(help="The name that users will write")],
    into: Annotated[Path, typer.Option(help="The folder to make it in")] = Path(),
) -> None:
    """Write a distribution with one working plugin.

    Beside its module it has metadata, a README and, for the seven kinds, a contract test.

    Example:  tk plugins new adapter mylab && pip install -e tk-mylab && tk plugins test adapter:mylab
    """
    from tkernel_plugins.scaffold import write_distribution

    if kind not in ALL_KINDS:
        raise UsageError(f"there is no kind {kind!r}", hint=did_you_mean(kind, ALL_KINDS) or KINDS_HELP)
    if taken := read_index().find(kind, name):
        hint = "Choose another name: of two plugins with one name, every run has to say which it means."
        raise UsageError(f"{taken[0]} is installed already", hint=hint)
    try:
        folder = write_distribution(kind, name, into)
    except OSError as error:
        raise TkError(f"cannot write to {error.filename}: {error.strerror}") from error
    print(f"wrote {folder}")
    print(f"next: pip install -e {folder} && tk plugins {'test' if kind in KINDS else 'show'} {kind}:{name}")

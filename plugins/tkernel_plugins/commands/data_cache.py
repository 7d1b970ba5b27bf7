"""`tk data cache`: what prepared data are kept, why a run would or would not use them, and making room."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tkernel.cli.arguments import Plugins, split_file
from tkernel.errors import UsageError

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="See, explain and empty the cache of prepared data.",
    epilog="Example:  tk data cache list",
)


@app.callback()
def cache() -> None:
    pass


@app.command("list")
def list_entries(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what is kept, the last used first: rows as they were read, and samples as they were encoded.

    Example:  tk data cache list
    """
    from tkernel_plugins.data.cache import KINDS, cache_folder, entries
    from tkernel_plugins.data.cache_entry import words_of_time

    found = [entry for kind in KINDS for entry in entries(kind)]
    if as_json:
        print(json.dumps([described(entry) for entry in found], indent=1))
        return
    for entry in found:
        kind, age = entry.manifest["kind"], words_of_time(entry.age)
        print(
            f"{entry.folder.name[:8]}  {kind:7}  {_size(entry.size):>9}  {age:>8} old  {entry.manifest['label']}"
        )
    total = sum(entry.size for entry in found)
    print(f"{len(found)} entries, {_size(total)} in {cache_folder()}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def explain(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="The YAML or JSON file of a run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Say whether a run would find its samples in the cache, and if not, what differs from the most similar.

    Rows are read (and kept) for that; nothing is encoded. `key=value` overrides FILE.

    Example:  tk data cache explain train.yaml cutoff_len=512
    """
    from tkernel_plugins.commands.data_run import kind_of, session_of

    path, overrides = split_file(file, ctx.args)
    session = session_of(path, overrides, plugin or ())

    from tkernel.pipeline import stage_request
    from tkernel_plugins.data.cache import cache_folder, entries, found_damage
    from tkernel_plugins.data.cache_key import NoKey, diff, nearest
    from tkernel_plugins.data.cache_samples import sample_key
    from tkernel_plugins.data.options import PrepareOptions

    request = stage_request(session, weights=False)
    key = sample_key(request, kind_of(session), request.options or PrepareOptions())
    said: dict[str, Any] = {"hit": False, "reason": None, "key": None, "difference": []}
    if isinstance(key, NoKey):
        said["reason"] = f"not cached: {key.reason}"
    else:
        said["key"] = key.name
        entry, damage = found_damage(cache_folder() / key.kind / key.name, key)
        differing = nearest(key.components, [other.components for other in entries(key.kind)])
        if entry is not None:
            said |= {"hit": True, "reason": f"hit: {key.name[:8]}, {entry.manifest['label']}"}
        elif damage is not None or differing is None:
            said["reason"] = damage or "miss: nothing is cached yet"
        else:
            said |= {"reason": "miss: the most similar entry differs in", "difference": diff(differing)}
    if as_json:
        print(json.dumps(said, indent=1))
        return
    print(said["reason"])
    for line in said["difference"]:
        print(f"  {line}")


@app.command()
def clear(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Entries, as `list` names them; all without.")
    ] = None,
    unused_for: Annotated[
        float | None, typer.Option("--unused-for", min=0, help="Only those not used for so many days.")
    ] = None,
) -> None:
    """Delete entries, and what killed runs have left half written.

    Example:  tk data cache clear --unused-for 30
    """
    import time

    from tkernel_plugins.data.cache import KINDS, cache_folder, entries, remove, remove_unreadable, sweep

    found = [entry for kind in KINDS for entry in entries(kind)]
    for key in keys or ():
        if not any(entry.folder.name.startswith(key) for entry in found):
            raise UsageError(f"no entry is named {key!r}", hint="See what there is: tk data cache list")
    if keys:
        found = [entry for entry in found if entry.folder.name.startswith(tuple(keys))]
    if unused_for is not None:
        found = [entry for entry in found if time.time() - entry.used >= unused_for * 86400]
    sizes = {entry.folder.name: entry.size for entry in found}
    removed = [entry.folder.name for entry in found if remove(entry)]
    unreadable = remove_unreadable(cache_folder()) if not keys and unused_for is None else 0
    sweep(cache_folder())
    damaged = f"; and {unreadable} that were damaged or of another version" if unreadable else ""
    busy = f"; {len(found) - len(removed)} are being written" if len(removed) < len(found) else ""
    print(f"removed {len(removed)} entries, {_size(sum(sizes[name] for name in removed))}{damaged}{busy}")


def described(entry: Any) -> dict[str, Any]:
    """An entry as plain values."""
    return {
        "key": entry.folder.name,
        "kind": entry.manifest["kind"],
        "label": entry.manifest["label"],
        "created": entry.manifest["created"],
        "used": entry.used,
        "bytes": entry.size,
        "folder": str(entry.folder),
        "components": dict(entry.components),
    }


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"

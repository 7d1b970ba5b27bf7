"""Show versions, devices and memory, to paste into a report; make environments."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    help="Show versions, devices and memory, to paste into a report; make environments.",
    epilog="Example:  tk env",
)

LIBRARIES = [
    "tkernel",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "safetensors",
    "bitsandbytes",
    "unsloth",
    "vllm",
    "pluggy",
    "pydantic",
    "typer",
    "ruamel.yaml",
    "importlib-metadata",
]


@app.callback(invoke_without_command=True)
def env(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show versions, devices and memory, to paste into a report."""
    if ctx.invoked_subcommand is not None:
        return
    facts = {**machine(), "libraries": versions(), "plugins from": distributions(), "devices": devices()}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, detail in value.items():
                print(f"  {name:20} {detail}")
        else:
            print(f"{key:20}   {value}")


def machine() -> dict[str, Any]:
    """Interpreter, operating system, processors and memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{pages / 2**30:.1f} GiB",
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that matter, from their metadata."""
    from importlib_metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def distributions() -> dict[str, str]:
    """Distributions that register plugins, with how many."""
    from tkernel.index import read_index

    counts: dict[tuple[str, str], int] = {}
    for entry in read_index().entries:
        key = (entry.distribution, entry.version)
        counts[key] = counts.get(key, 0) + 1
    return {name: f"{version}, {count} plugins" for (name, version), count in sorted(counts.items())}


def devices() -> dict[str, str]:
    """What torch can compute on. This is the one part that imports torch."""
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed: pip install 'tkernel[train]'"}
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


@app.command()
def create(
    folder: Annotated[Path, typer.Argument(help="Where the environment is made.")],
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="A distribution: a folder, a wheel or a name. May be repeated."),
    ] = None,
    constraint: Annotated[
        list[Path] | None, typer.Option(help="A constraints file of pip. May be repeated.")
    ] = None,
    remake: Annotated[bool, typer.Option("--remake", help="Make it anew if it is there.")] = False,
) -> None:
    """Make a virtual environment with tkernel and distributions, as their recipes say.

    Example:  tk env create ~/envs/unsloth --with contrib/tk-unsloth
    """
    from tkernel_plugins.commands.env_create import create_environment

    create_environment(folder, with_ or [], constraint or [], remake=remake)


def version() -> None:
    """Print the version.

    Example:  tk version
    """
    from importlib_metadata import version as version_of

    print(version_of("tkernel"))

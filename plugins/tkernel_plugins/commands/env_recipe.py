"""`tk_env.toml`, what a distribution says about the environment that it needs, found without importing anything.

Not a plugin; a library of `tk env create`.
"""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from tkernel.errors import UsageError

FILE = "tk_env.toml"
"""Lies in a distribution's package; in a source folder also beside `pyproject.toml`."""


class BadRecipe(UsageError):
    """A recipe that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Recipe:
    """What is installed, checked and removed. All keys are optional; without a recipe all have their default."""

    extras: tuple[str, ...] = ("train",)
    """Extras of `tkernel` that are installed."""
    flags: tuple[str, ...] = ()
    """Of pip, for the distribution itself; `--no-deps` where the rest of the recipe installs what it needs."""
    constraints: tuple[str, ...] = ()
    """Lines of a constraints file that holds for every step."""
    install: tuple[str, ...] = ()
    """Requirements that are installed together with tkernel, so that pip resolves them at once."""
    install_no_deps: tuple[str, ...] = ()
    """Requirements that are installed afterwards, without theirs."""
    remove: tuple[str, ...] = ()
    """Distributions that are uninstalled at the end, if they are there."""
    check: tuple[str, ...] = ()
    """Python statements, each run in a process of its own in the finished environment: `import unsloth`."""


@dataclass(frozen=True)
class Source:
    """A distribution to install: what pip is given, and its recipe."""

    name: str
    """As the user wrote it."""
    target: tuple[str, ...]
    """Words for pip: `-e FOLDER`, a wheel, or `name==version`."""
    recipe: Recipe = Recipe()


def parse_recipe(text: str, origin: str) -> Recipe:
    """Read a recipe; `origin` is named in errors.

    Raises:
        BadRecipe: no TOML, an unknown key, or a value that is not a list of texts.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRecipe(f"{origin} is no TOML: {error}") from error
    known = [item.name for item in fields(Recipe)]
    for key, value in values.items():
        if key not in known:
            raise BadRecipe(f"{origin}: there is no key {key!r}", hint=f"Keys: {', '.join(known)}.")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadRecipe(f"{origin}: {key} is not a list of texts", hint=f'Write `{key} = ["..."]`.')
    return Recipe(**{key: tuple(value) for key, value in values.items()})


def find_source(spec: str) -> Source | None:
    """The distribution that `spec` names: a folder, a wheel, or one that is installed here.

    Returns:
        None for a name that is not installed: its recipe is in the wheel that pip finds.

    Raises:
        BadRecipe: see `parse_recipe`.
        UsageError: a path that does not exist, or a folder that pip cannot install.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return _of_folder(spec, path.resolve())
    if path.suffix == ".whl" and path.is_file():
        return of_wheel(spec, path.resolve())
    if "/" in spec or "\\" in spec or spec.startswith((".", "~")):
        raise UsageError(f"there is no folder or wheel {spec}", hint=f"Looked for {path.absolute()}.")
    return _of_installed(spec)


def of_wheel(spec: str, wheel: Path) -> Source:
    """A wheel and the recipe in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == FILE]
        recipe = Recipe()
        if names:
            recipe = parse_recipe(archive.read(names[0]).decode("utf-8"), f"{wheel.name}: {names[0]}")
    return Source(spec, (str(wheel),), recipe)


def tkernel_target(extras: tuple[str, ...]) -> tuple[str, ...]:
    """Words for pip that install this very `tkernel`: the checkout if it is editable, else its version."""
    found = _installed("tkernel")
    assert found is not None
    wanted = f"[{','.join(extras)}]" if extras else ""
    folder, editable = _installed_from(found)
    if folder is not None:
        return (*(["-e"] if editable else []), f"{folder}{wanted}")
    return (f"tkernel{wanted}=={found.version}",)


def _of_folder(spec: str, folder: Path) -> Source:
    if not (folder / "pyproject.toml").is_file() and not (folder / "setup.py").is_file():
        raise UsageError(
            f"{folder} is no distribution: it has no pyproject.toml", hint="Name the folder that has one."
        )
    places = sorted([folder / FILE, *folder.glob(f"*/{FILE}"), *folder.glob(f"src/*/{FILE}")])
    found = [place for place in places if place.is_file() and place.parent.name != "build"]
    if len(found) > 1:
        raise BadRecipe(f"{folder} has {len(found)} recipes: {', '.join(map(str, found))}")
    recipe = parse_recipe(found[0].read_text(encoding="utf-8"), str(found[0])) if found else Recipe()
    return Source(spec, ("-e", str(folder)), recipe)


def _of_installed(spec: str) -> Source | None:
    for name in (spec, f"tk-{spec}"):
        found = _installed(name)
        if found is None:
            continue
        folder, _ = _installed_from(found)
        if folder is not None and folder.is_dir():
            return _of_folder(spec, folder)
        files = [file for file in found.files or () if file.name == FILE]
        recipe = Recipe()
        if files:
            recipe = parse_recipe(files[0].read_text(encoding="utf-8"), f"{name}: {files[0]}")
        return Source(spec, (f"{name}=={found.version}",), recipe)
    return None


def _installed(name: str) -> Any:
    """The metadata of an installed distribution, None if there is none.

    A build leaves an `.egg-info` in a checkout, which may come first on the path; what pip wrote is preferred.
    """
    from importlib_metadata import distributions

    found = list(distributions(name=name))
    return next((d for d in found if d.read_text("RECORD") is not None), found[0] if found else None)


def _installed_from(distribution: Any) -> tuple[Path | None, bool]:
    """The folder or file on this machine that pip installed a distribution from, and whether as editable."""
    text = distribution.read_text("direct_url.json")
    given: Mapping[str, Any] = json.loads(text) if text else {}
    url = urlparse(given.get("url", ""))
    if url.scheme != "file":
        return None, False
    path = Path(url2pathname(url.path))
    editable = bool(given.get("dir_info", {}).get("editable"))
    return (path, editable) if path.exists() else (None, False)

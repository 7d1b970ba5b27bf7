"""The lowest versions that the metadata admits are those that `make test-oldest` installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
EXTRAS = ("train", "gguf", "media", "test", "zstd")


def test_the_oldest_constraints_are_the_lower_bounds_of_the_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
    bounds = {}
    for requirement in map(Requirement, listed):
        (bound,) = [part for part in requirement.specifier if part.operator == ">="]
        bounds[canonicalize_name(requirement.name)] = Version(bound.version)
    lines = (ROOT / "tests" / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {canonicalize_name(name): Version(pin) for name, pin in pins.items()} == bounds


def test_what_every_environment_is_held_to_is_torch_alone() -> None:
    """unsloth and vLLM need other versions of the rest; what the tests' own environment is held to is in `tests`."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [Requirement(line).name for line in lines if not line.startswith("#")] == ["torch"]

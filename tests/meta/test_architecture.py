"""What the design promises of the tree, held by reading the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "kernel" / "tkernel"
PLUGINS = ROOT / "plugins" / "tkernel_plugins"
KINDS = (
    "models",
    "adapters",
    "datasets",
    "templates",
    "media",
    "stages",
    "engines",
    "extensions",
    "commands",
)
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "peft",
    "trl",
    "accelerate",
    "rich",
    "pandas",
    "pyarrow",
}


def sources(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*.py") if "__pycache__" not in p.parts)


def imports(path: Path, module_level: bool = False) -> Iterator[str]:
    """Names of the modules that a file imports; type-checking blocks do not count."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if module_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(KERNEL), ids=identity)
def test_the_kernel_never_imports_the_built_in_plugins(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith("tkernel_plugins")]


@pytest.mark.parametrize("path", sources(KERNEL), ids=identity)
def test_the_kernel_imports_nothing_heavy_at_module_level(path: Path) -> None:
    assert not [name for name in imports(path, module_level=True) if name.split(".")[0] in HEAVY]


def registered_modules() -> dict[str, str]:
    """Module of every built-in plugin -> its kind, from setup.cfg."""
    modules, kind = {}, ""
    for line in (ROOT / "setup.cfg").read_text().splitlines():
        if line.endswith("="):
            kind = line.partition(".")[2].removesuffix("=").strip()  # none for what is no plugin
        elif kind and "=" in line and line.startswith(" "):
            modules[line.split("=")[1].strip().split(":")[0]] = kind
    return modules


@pytest.mark.parametrize("module", sorted(registered_modules()))
def test_a_plugin_imports_no_other_plugin_and_nothing_heavy_at_module_level(module: str) -> None:
    plugins = registered_modules()
    path = ROOT / "plugins" / Path(*module.split(".")).with_suffix(".py")
    assert not [n for n in imports(path) if n in plugins and n != module]
    assert not [n for n in imports(path, module_level=True) if n.split(".")[0] in HEAVY]


@pytest.mark.parametrize("library", ["data", "keys", "runs", "serving", "sources", "training"])
def test_a_library_imports_nothing_from_the_folders_of_plugins(library: str) -> None:
    folders = tuple(f"tkernel_plugins.{kind}" for kind in KINDS)
    found = {(identity(p), n) for p in sources(PLUGINS / library) for n in imports(p)}
    assert not [pair for pair in found if pair[1].startswith(folders)]


@pytest.mark.parametrize("path", [*sources(KERNEL), *sources(PLUGINS)], ids=identity)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_kernel_stays_at_the_size_that_adr_0007_explains() -> None:
    lines = sum(len(p.read_text().splitlines()) for p in sources(KERNEL) if "testing" not in p.parts)
    assert lines <= 6188


def test_the_register_holds_one_sorted_line_per_plugin() -> None:
    group: list[str] = []
    for line in [*(ROOT / "setup.cfg").read_text().splitlines(), "end ="]:
        if line.startswith("    "):
            group.append(line.split("=")[0].strip())
        else:
            assert group == sorted(set(group))
            group = []


def test_the_installed_metadata_is_that_of_setup_cfg() -> None:
    from importlib_metadata import distribution

    declared = {(kind, name) for kind, name in _declared()}
    installed = {(e.group, e.name) for e in distribution("tkernel").entry_points}
    assert declared == installed, "setup.cfg has changed: run `pip install -e .` again"


def _declared() -> Iterator[tuple[str, str]]:
    group = ""
    for line in (ROOT / "setup.cfg").read_text().splitlines():
        if line.startswith("    "):
            yield group, line.split("=")[0].strip()
        elif line.endswith("="):
            group = line.removesuffix("=").strip()

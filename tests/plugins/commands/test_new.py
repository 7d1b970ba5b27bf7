"""`tk plugins new`: what it writes installs, is found, and passes its contract suite at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.errors import UsageError
from tkernel.index import ALL_KINDS, read_index
from tkernel_plugins.scaffold import write_distribution


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one new distribution of every kind installed by pip; names with `-` and `_` too."""
    folder, site = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("site")
    made = [
        write_distribution(kind, f"my-{kind}" if kind != "stage" else "my_stage", folder)
        for kind in ALL_KINDS
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, *map(str, made)], check=True, capture_output=True)
    return site


def test_every_kind_is_found_under_its_name(site: Path) -> None:
    found = {(entry.kind, entry.name) for entry in read_index([str(site)]).entries}
    assert found == {(kind, f"my-{kind}" if kind != "stage" else "my_stage") for kind in ALL_KINDS}


@pytest.mark.parametrize("plugin", ["adapter:my-adapter", "template:my-template", "dataset:my-dataset"])
def test_a_new_plugin_passes_its_contract_at_once(site: Path, plugin: str) -> None:
    done = tk(site, "plugins", "test", plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_new_command_runs(site: Path) -> None:
    done = tk(site, "my-command", "--help")
    assert "Print the model and the plugins of a run." in done.stdout


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_command_that_it_ends_with_knows_the_plugin(site: Path, tmp_path: Path, kind: str) -> None:
    done = tk(site, "plugins", "new", kind, "other", "--into", str(tmp_path))
    next_one = done.stdout.split("&& tk ")[1].split()
    assert next_one == [
        "plugins",
        "test" if (tmp_path / "tk-other" / "tests").exists() else "show",
        f"{kind}:other",
    ]
    if next_one[1] == "show":
        name = f"my-{kind}"
        assert f"{kind}:{name}" in tk(site, "plugins", "show", f"{kind}:{name}").stdout


def test_a_name_that_a_plugin_of_this_kind_has_is_refused(site: Path, tmp_path: Path) -> None:
    done = tk(site, "plugins", "new", "adapter", "lora", "--into", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tk: adapter:lora of tkernel 1.0.0 is installed already\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Mine", "9lives", "a b", "a--b", "../x", ""])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a plugin"):
        write_distribution("adapter", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_distribution("adapter", "mine", tmp_path)
    with pytest.raises(UsageError, match="is there already"):
        write_distribution("adapter", "mine", tmp_path)


def tk(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `tk` with the new distributions on the path."""
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tkernel", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)

"""`run.lock.json`: written, read, compared, replayed."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tkernel.config.read import Setting
from tkernel.config.settle import settle
from tkernel.errors import LockMismatch
from tkernel.lock import (
    Lock,
    content_hash,
    contents,
    difference,
    installed_versions,
    plan_of,
    read_lock,
    refuse,
    write_lock,
)
from tkernel.types.plan import Choice, Plan

LORA = Choice(
    "adapt", "adapter", "lora", "tkernel", "1.0.0", "plugins.lora:ADAPTER", "default", "the default"
)
ROWS = Choice(
    "load_dataset", "dataset", "alpaca", "tkernel", "1.0.0", "d:A", "pinned", "declared", subject="identity"
)
MEMORY = Choice("*", "extension", "resources", "tk-mem", "0.1", "m:E", "extension", "plugins:")
PLAN = Plan((LORA, ROWS), (MEMORY,))


def write(path: Path, values: dict[str, Any]) -> None:
    settings = tuple(Setting(key, value, "train.yaml:1") for key, value in values.items())
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    lock = Lock(settings, plan_of(PLAN), versions, {"model": "sha256:00"}, {"seed": 42})
    write_lock(path, lock, PLAN)


def read(path: Path) -> Lock:
    lock, problems = read_lock(path)
    assert problems == []
    assert lock is not None
    return lock


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_settings_survive_writing_and_reading(given: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.lock.json")
        write(path, given)
        assert dict(settle(path, (), {})) == given


def test_a_lock_is_stable_and_its_settings_know_their_line_in_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock.json"
    write(path, {"seed": 42, "learning_rate": 1e-4, "save_steps": math.inf, "output_dir": Path("out")})
    first = path.read_bytes()
    write(path, {"output_dir": Path("out"), "save_steps": math.inf, "learning_rate": 1e-4, "seed": 42})
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["run.lock.json"]
    replayed = settle(path, ["seed=1"], {})
    assert dict(replayed) == {"learning_rate": 1e-4, "output_dir": "out", "save_steps": math.inf, "seed": 1}
    line = int(str(replayed.origin("learning_rate")).rpartition(":")[2])
    assert "learning_rate" in path.read_text().splitlines()[line - 1]
    assert json.loads(first)["settings"]["learning_rate"] == {"origin": "train.yaml:1", "value": 1e-4}


def test_an_object_of_python_is_recorded_and_cannot_be_replayed(tmp_path: Path) -> None:
    write(tmp_path / "run.lock.json", {"compute_metrics": len})
    lock, problems = read_lock(tmp_path / "run.lock.json")
    assert lock is not None
    assert [problem.message for problem in problems] == [
        "compute_metrics was an object given from Python, and a lock cannot give it again"
    ]


def test_a_plan_is_locked_as_distribution_version_and_entry_point() -> None:
    assert plan_of(PLAN) == {
        "adapter": "tkernel==1.0.0:lora = plugins.lora:ADAPTER",
        "dataset identity": "tkernel==1.0.0:alpaca = d:A",
        "extension resources": "tk-mem==0.1:resources = m:E",
    }


def test_a_replay_is_refused_with_a_diff(tmp_path: Path) -> None:
    path = tmp_path / "run.lock.json"
    write(path, {"seed": 42})
    lock = read(path)
    refuse(path, difference(contents(lock), contents(lock)))
    now = replace(
        lock,
        plan={**lock.plan, "adapter": "tkernel==1.1.0:lora = plugins.lora:ADAPTER"},
        versions={"python": "3.11.7"},
        hashes={"model": "sha256:00", "dataset x": "sha256:11"},
    )
    with pytest.raises(LockMismatch) as caught:
        refuse("run.lock.json", difference(contents(lock), contents(now)))
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "run.lock.json cannot be replayed: what it needs is not what is here\n"
        "  - hashes dataset x: (none)\n"
        "  + hashes dataset x: sha256:11\n"
        "  - plan adapter: tkernel==1.0.0:lora = plugins.lora:ADAPTER\n"
        "  + plan adapter: tkernel==1.1.0:lora = plugins.lora:ADAPTER\n"
        "  - versions torch: 2.13.0\n"
        "  + versions torch: (none)\n"
        "  Install the versions and restore the files of the `-` lines, or run the original configuration."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            "run.lock.json:1: not JSON: expecting property name enclosed in double quotes, found the end of the file",
        ),
        ("[]", "run.lock.json: the file is no lock of a run"),
        ('{"settings": {}, "schema": 9}', "run.lock.json: the lock has schema 9, and this tk reads schema 1"),
        (
            '{"settings": {}, "schema": 1}',
            "run.lock.json: the lock lacks one of plan, versions, hashes, seeds",
        ),
    ],
)
def test_a_file_that_is_no_lock_is_told(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.lock.json").write_text(text)
    assert str(settle("run.lock.json", (), {}).problems[0]).startswith(message)


def test_a_content_hash_depends_on_names_and_contents_and_on_nothing_else(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "x.json").write_text("1")
        (tmp_path / folder / "y.json").write_text("2")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    (tmp_path / "b" / "y.json").write_text("3")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")
    (tmp_path / "a" / "y.json").rename(tmp_path / "a" / "z.json")
    (tmp_path / "b" / "y.json").write_text("2")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")
    assert content_hash(tmp_path / "b" / "y.json") == content_hash(tmp_path / "b" / "y.json")


def test_versions_are_those_of_metadata() -> None:
    found = installed_versions(["pytest", "no-such-distribution"])
    assert found == {"python": sys.version.split()[0], "pytest": pytest.__version__}

"""Processes share the cache: one works and the others wait, and one that dies leaves nothing that is read."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cache_kit import digest, loaded, prepared, rows
from data_kit import write_jsonl

from tkernel_plugins.data.cache import entries

KIT = Path(__file__).with_name("cache_kit.py")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(file: Path, prelude: str = "", **options: Any) -> subprocess.Popen[str]:
    """A process that prepares `file` and prints the digest of its samples."""
    command = [sys.executable, str(KIT), str(file), json.dumps(options)]
    if prelude:
        code = f"import sys; sys.argv = {command[1:]!r}; sys.path.insert(0, {str(KIT.parent)!r})\n{prelude}"
        command = [sys.executable, "-c", f"{code}\nimport cache_kit; cache_kit.main()"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_of_two_processes_one_works_and_the_other_reads(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", rows(2000))
    both = [start(file, preprocessing_batch_size=2) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    told = sorted(line for _, err in said for line in err.splitlines() if line.startswith("cache: "))
    assert [line.split()[1] for line in told if "another process" not in line] == ["hit:", "miss:"], told
    assert sum(err.count("encode rows: 2,000 rows") for _, err in said) == 1
    assert len(entries("samples")) == len(entries("rows")) == 1


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_process_leaves_nothing_that_is_read_and_no_lock(
    rounds: int, tmp_path: Path, own_cache: Path
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", rows(2000))
    options = {"preprocessing_batch_size": 4, "preprocessing_num_workers": 2}
    drawn = random.Random(7)
    seen_draft = False
    for _ in range(rounds):
        process = start(file, **options)
        while process.poll() is None and not list(own_cache.glob("drafts/*/0.arrow")):
            time.sleep(0.01)
        seen_draft = seen_draft or process.poll() is None
        time.sleep(drawn.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert seen_draft
    expected = digest(prepared(loaded(file), identities={}, **options).train)
    process = start(file, **options)  # waits for ever if a lock were left
    out, err = process.communicate(timeout=120)
    assert out.strip() == expected, err
    assert list(own_cache.glob("drafts/*")) == []


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, own_cache: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", rows(2000))
    # Files that may not grow stand for a disk that is full.
    prelude = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    )
    process = start(file, prelude)
    out, err = process.communicate()
    assert process.returncode == 1
    assert out == ""
    last = err.strip().splitlines()[-2:]
    assert "the data cannot be written to" in last[0], err
    assert "File too large" in last[0]
    assert "TK_CACHE_DIR" in last[1]
    assert "tk data cache clear" in last[1]
    assert list(own_cache.glob("*/*/*.arrow")) == []


def test_a_worker_that_is_killed_is_an_error_not_a_hang(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", rows(10_000))
    process = start(file, preprocessing_batch_size=1, preprocessing_num_workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    worker = None
    while worker is None and process.poll() is None:
        worker = next(iter(children.read_text().split()), None)
        time.sleep(0.01)
    assert worker is not None
    time.sleep(0.2)
    os.kill(int(worker), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert out == ""
    assert "a process that encodes was killed" in err
    assert "preprocessing_num_workers" in err

"""A disk that is full, closed or changing under a run: a clear error, and what was saved stays whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_kit import SETTINGS, assert_same_run, make_folder
from transformers import TrainerCallback

import tkernel
from tkernel.errors import TkError
from tkernel_plugins.training.checkpoints import broken
from tkernel_plugins.training.errors import CheckpointNotSaved, NonFiniteLoss
from tkernel_plugins.training.room import NoRoom


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size in memory; needs root."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a disk of its own needs root")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


class At(TrainerCallback):
    """Calls a function when a step begins."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.act()


def settings(folder: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    paths = {name: str(folder / SETTINGS[name]) for name in ("model_name_or_path", "dataset")}
    return {**SETTINGS, **paths, "output_dir": str(output_dir), "save_steps": 4, **changes}


def fill(place: Path) -> None:
    """Take all that is free."""
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


def test_a_full_disk_ends_the_run_and_it_goes_on_bitwise_when_there_is_room(
    folder: Path, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    tkernel.run(settings(folder, tmp_path / "whole"))
    place = disk("8m")
    out = place / "out"
    with pytest.raises(CheckpointNotSaved, match=r"cannot save .*checkpoint-8.*MiB are free") as caught:
        tkernel.run(settings(folder, out), callbacks=[At(6, lambda: fill(place))])
    assert "checkpoint-4 is whole" in str(caught.value)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-4"]
    assert broken(out / "checkpoint-4") is None
    (place / "filler").unlink()
    tkernel.run(settings(folder, out, resume_from_checkpoint=True))
    assert_same_run(tmp_path / "whole", out)


def test_a_disk_that_fills_up_while_the_result_is_saved_keeps_the_result_before(
    folder: Path, disk: Callable[[str], Path]
) -> None:
    place = disk("8m")
    out = place / "out"
    tkernel.run(settings(folder, out, save_strategy="no"))
    before = (out / "adapter_model.safetensors").read_bytes()
    changes = {"save_strategy": "no", "overwrite_output_dir": True, "learning_rate": 2e-2}
    with pytest.raises(CheckpointNotSaved):
        tkernel.run(settings(folder, out, **changes), callbacks=[At(11, lambda: fill(place))])
    assert (out / "adapter_model.safetensors").read_bytes() == before


def test_a_run_that_cannot_fit_is_refused_with_the_numbers_before_data_is_prepared(
    folder: Path, disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk("200k")
    changes = {"finetuning_type": "full", "overwrite_cache": True}
    whole = {k: v for k, v in settings(folder, place / "out", **changes).items() if not k.startswith("lora")}
    with pytest.raises(
        NoRoom, match=r"has [0-9.]+ KiB free, and the run saves at least 1\.4 MiB: .* 3 checkpoints"
    ):
        tkernel.run(whole)
    printed = capsys.readouterr()
    assert "encode" not in printed.out + printed.err
    # Two at one time: the one that is kept, and the one that is not whole yet.
    with pytest.raises(NoRoom, match="2 checkpoints"):
        tkernel.run({**whole, "save_total_limit": 1})


def test_a_folder_that_becomes_read_only_ends_the_run(folder: Path, disk: Callable[[str], Path]) -> None:
    place = disk("8m")

    def close() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)

    with pytest.raises(CheckpointNotSaved, match="Read-only file system"):
        tkernel.run(settings(folder, place / "out"), callbacks=[At(6, close)])
    assert broken(place / "out" / "checkpoint-4") is None
    with pytest.raises(TkError, match=r"`output_dir: .*other` cannot be written: no permission"):
        tkernel.run(settings(folder, place / "other"))


def test_the_newest_checkpoint_is_one_that_can_be_used_when_the_weights_diverge(
    folder: Path, tmp_path: Path
) -> None:
    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 8:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))

    out = tmp_path / "out"
    with pytest.raises(
        NonFiniteLoss, match=r"lora_A.* is not finite after step 8, which learned .*rows\.jsonl:"
    ):
        tkernel.run(settings(folder, out, save_total_limit=1), callbacks=[Spoil()])
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-4"]
    tkernel.run(settings(folder, out, save_total_limit=1, resume_from_checkpoint=True))
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-12"]


def vanish(file: Path) -> None:
    file.unlink()


def shrink(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:11]))


@pytest.mark.parametrize("change", [vanish, shrink])
@pytest.mark.parametrize("streaming", [False, True])
def test_data_that_change_under_a_run_are_no_surprise(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], streaming: bool
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes((folder / "rows.jsonl").read_bytes())
    stream = {"streaming": True, "buffer_size": 4, "preprocessing_batch_size": 4} if streaming else {}
    run = settings(folder, tmp_path / "out", dataset=str(file), **stream)
    callbacks = [At(6, lambda: change(file))]
    if not streaming:  # what is trained on was prepared before
        assert tkernel.run(run, callbacks=callbacks).steps == 12
        return
    with pytest.raises(TkError, match=r"rows\.jsonl"):
        tkernel.run(run, callbacks=callbacks)
    assert broken(tmp_path / "out" / "checkpoint-4") is None
    assert (
        json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4
    )

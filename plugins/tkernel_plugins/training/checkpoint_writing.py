"""A checkpoint is in `output_dir` whole or not at all: it is written beside its place and renamed when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import ExportableState

from tkernel.errors import TkError
from tkernel_plugins.training.checkpoints import DRAFT, MANIFEST, OLD, checkpoints
from tkernel_plugins.training.errors import CheckpointNotSaved

if TYPE_CHECKING:
    from tkernel_plugins.training.stage_trainer import StageTrainer

_OF_THE_DISK = ("PytorchStreamWriter", "unexpected pos", "iostream", "os error", "I/O error")
"""Words of torch's and safetensors' messages about files that could not be written."""


def write_checkpoint(trainer: StageTrainer, output_dir: Path) -> None:
    """Save what it takes to go on after the step that was done last, and delete what is too many then.

    Raises:
        CheckpointNotSaved: the disk is full, or the folder can no longer be written. What was saved before
            is as it was.
    """
    args, state = trainer.args, trainer.state
    folder = output_dir / f"checkpoint-{state.global_step}"
    draft = folder.with_name(folder.name + DRAFT)
    with _saving(folder, draft, first=args.should_save):
        if args.should_save:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        trainer.accelerator.wait_for_everyone()
        trainer.store_flos()
        trainer.save_model(str(draft), _internal_call=True)
        if not args.save_only_model:
            trainer._save_optimizer_and_scheduler(str(draft))
            trainer._save_scaler(str(draft))
            trainer._save_rng_state(str(draft))
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            best = folder.with_name(f"checkpoint-{state.best_global_step}")
            if state.best_global_step and (best == folder or best.exists()):
                state.best_model_checkpoint = str(best)
            state.stateful_callbacks = _callback_states(trainer)
            state.save_to_json(str(draft / "trainer_state.json"))
            publish(draft, folder)
            for old in trainer.abandoned:
                if old != folder:
                    discard(old)
            trainer.abandoned = ()
            delete_surplus(output_dir, args.save_total_limit, state.best_model_checkpoint)
        trainer.accelerator.wait_for_everyone()
    if args.push_to_hub:
        trainer._push_from_checkpoint(str(folder))


def write_model(trainer: StageTrainer, output_dir: Path) -> None:
    """Save the trained model into `output_dir`; each file replaces the one before it when all are written.

    Raises:
        CheckpointNotSaved: as `write_checkpoint`.
    """
    draft = output_dir / f"model{DRAFT}"
    with _saving(output_dir, draft, first=trainer.args.should_save):
        trainer.save_model(str(draft), _internal_call=True)
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            for path in _synced_files(draft):
                target = output_dir / path.relative_to(draft)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            shutil.rmtree(draft)
            _sync(output_dir)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(commit_message="Model save", revision=trainer.args.hub_revision)


def publish(draft: Path, folder: Path) -> None:
    """Write the manifest of a draft that is complete, and give the draft its name."""
    files = {str(path.relative_to(draft)): path.stat().st_size for path in _synced_files(draft)}
    manifest = draft / MANIFEST
    manifest.write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    _sync(manifest)
    _sync(draft)
    old = folder.with_name(folder.name + OLD)
    if folder.exists():
        os.rename(folder, old)
    os.rename(draft, folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a checkpoint, which is none from the first moment on."""
    old = folder.with_name(folder.name + OLD)
    os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)


def delete_surplus(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints above `save_total_limit`; the newest and the best one stay."""
    found = checkpoints(output_dir)
    if not limit or limit < 0:
        return
    kept = {found[-1].name, Path(best).name if best else found[-1].name}
    surplus = len(found) - max(limit, len(kept))
    for folder in [path for path in found if path.name not in kept][: max(surplus, 0)]:
        discard(folder)


def clean_up(output_dir: Path) -> None:
    """Delete what a process that died was writing or deleting."""
    for ending in (DRAFT, OLD):
        for path in (*output_dir.glob(f"checkpoint-*{ending}"), *output_dir.glob(f"model{ending}")):
            shutil.rmtree(path, ignore_errors=True)


def abandoned(output_dir: Path, step: int) -> tuple[Path, ...]:
    """Checkpoints of a run that is not gone on with: those after the step from which this one starts."""
    return tuple(path for path in checkpoints(output_dir) if step_of_name(path) > step)


def step_of_name(path: Path) -> int:
    """N of `checkpoint-N`."""
    return int(path.name.rpartition("-")[2])


@contextmanager
def _saving(what: Path, draft: Path, *, first: bool) -> Iterator[None]:
    """Around writing `what`: an error of the disk is a `CheckpointNotSaved`, and the draft is deleted."""
    try:
        yield
    except Exception as error:
        if first:
            shutil.rmtree(draft, ignore_errors=True)
        # torch and safetensors have no number for what the disk says.
        told = isinstance(error, OSError) or any(word in str(error) for word in _OF_THE_DISK)
        if isinstance(error, TkError) or not told:
            raise
        raise not_saved(what, error) from error


def not_saved(what: Path, error: Exception) -> CheckpointNotSaved:
    """The error that says why `what` could not be written, and from where to go on."""
    folder = what.parent if what.name.startswith("checkpoint-") else what
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    try:
        free = f"; {shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there"
    except OSError:
        free = ""
    whole = [path.name for path in checkpoints(folder)] if folder.is_dir() else []
    last = f"{whole[-1]} is whole: make room, and go on" if whole else "Make room, and start again"
    return CheckpointNotSaved(
        f"cannot save {what}: {' '.join(reason.split())[:200]}{free}",
        hint=f"{last} with `resume_from_checkpoint: true`; `save_total_limit` keeps fewer checkpoints.",
    )


def _callback_states(trainer: StageTrainer) -> dict[str, Any]:
    """The states of callbacks by class name, as `TrainerState` has them: several of a class are a list."""
    states: dict[str, Any] = {}
    for callback in (*trainer.callback_handler.callbacks, trainer.control):
        if isinstance(callback, ExportableState):
            states.setdefault(type(callback).__name__, []).append(callback.state())
    return {name: found[0] if len(found) == 1 else found for name, found in states.items()}


def _synced_files(folder: Path) -> list[Path]:
    """All files below `folder`, after the disk has them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    return files


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

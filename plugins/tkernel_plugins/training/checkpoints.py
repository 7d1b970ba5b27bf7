"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel_plugins.training.errors import CheckpointError

WEIGHTS = (
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

MANIFEST = "manifest.json"
"""Names and sizes of a checkpoint's files, written last; those of other programs have none."""

DRAFT, OLD = ".tmp", ".old"
"""Endings of what is being written, and of what is being deleted."""


@dataclass(frozen=True)
class Resume:
    """The checkpoint to go on from (None: start afresh) and what the user should hear about it."""

    path: Path | None = None
    step: int = 0
    notes: tuple[str, ...] = ()


def find_resume(wanted: Any, output_dir: Path) -> Resume:
    """Resolve `resume_from_checkpoint`.

    Args:
        wanted: None or False starts afresh; True takes the newest whole checkpoint in `output_dir`, and
            starts afresh where there is none; a path is that checkpoint.

    Raises:
        CheckpointError: a path that is not a whole checkpoint.
    """
    if wanted is None or str(wanted).lower() in ("", "false", "no"):
        return Resume()
    if str(wanted).lower() not in ("true", "yes"):
        path = Path(str(wanted)).expanduser()
        reason = broken(path)
        if reason:
            raise CheckpointError(
                f"`resume_from_checkpoint: {wanted}` is no checkpoint: {reason}",
                hint="Write `resume_from_checkpoint: true` to take the newest whole one in `output_dir`.",
            )
        return Resume(path, step_of(path))
    notes = []
    for path in reversed(checkpoints(output_dir)):
        reason = broken(path)
        if reason is None:
            return Resume(path, step_of(path), tuple(notes))
        notes.append(f"skipped {path.name}: {reason}")
    notes.append(f"no checkpoint in {output_dir}, so training starts afresh")
    return Resume(notes=tuple(notes))


@contextmanager
def fitting(path: str | None) -> Iterator[None]:
    """Around loading `path`: what torch and peft raise for other layers or shapes is a `CheckpointError`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint {path} does not fit this run: {reason[:200]}",
            hint="Go on with the model, `template`, `finetuning_type` and adapter options that it was trained "
            "with, or start afresh in another `output_dir`.",
        ) from error


def checkpoints(output_dir: Path) -> list[Path]:
    """Folders `checkpoint-N` of `output_dir`, oldest first."""
    found = [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and p.name.split("-")[-1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def broken(path: Path) -> str | None:
    """Why training cannot go on from `path`, or None if it can."""
    return unfinished(path) or _damaged_weights(path)


def unfinished(path: Path) -> str | None:
    """What a checkpoint lacks, from a look at its files; None if nothing."""
    if not path.is_dir():
        return "the folder does not exist"
    if path.name.endswith((DRAFT, OLD)):
        return "it was not finished"
    try:
        _state(path)
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except (ValueError, KeyError, TypeError):
        return "trainer_state.json is damaged"
    if not any((path / name).exists() for name in WEIGHTS) and not list(path.glob("global_step*")):
        return "it holds no weights"
    if (path / MANIFEST).exists():
        return _missing(path)
    # A save that was cut short ends before these, which are written last and never empty.
    for name in ("optimizer.pt", "scheduler.pt"):
        if (path / name).exists() and (path / name).stat().st_size == 0:
            return f"{name} is empty"
    return None


def step_of(path: Path) -> int:
    """The number of optimizer steps done in the checkpoint."""
    return int(_state(path)["global_step"])


def _state(path: Path) -> Mapping[str, Any]:
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    int(state["global_step"])
    return state


def _missing(path: Path) -> str | None:
    """The first file that is not as long as the manifest says."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            if not (path / name).exists():
                return f"{name} is missing"
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size:,} bytes and had {size:,}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


def _damaged_weights(path: Path) -> str | None:
    """A safetensors file that is shorter than its header says."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (SafetensorError, OSError):
            return f"{file.name} is damaged"
    return None

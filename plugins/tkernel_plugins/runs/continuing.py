"""The output folder of a run and what an earlier run left there: refused, gone on with, finished or begun anew."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tkernel import lock
from tkernel.config.convert import convert
from tkernel.config.read import Setting
from tkernel.config.settle import Settings
from tkernel.errors import LockMismatch, Problem, TkError
from tkernel.other_models import is_adapter
from tkernel.session import Session
from tkernel.trace import TRACE
from tkernel.types.stage import StageResult
from tkernel_plugins.keys.renames import RENAMES

NO_RESULT = {lock.FILE_NAME, TRACE, "data_report.json"}
"""What a run leaves that failed before its first step, or data that were prepared for it."""

MAY_CHANGE = (
    *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"),
    *(
        "dataloader_prefetch_factor",
        "ddp_timeout",
        "disable_tqdm",
        "hub_",
        "log_",
        "logging_",
        "model_name_or_path",
    ),
    *(
        "output_dir",
        "overwrite_output_dir",
        "per_device_eval_batch_size",
        "plugins",
        "project",
        "push_to_hub",
    ),
    *("report_to", "resume_from_checkpoint", "run_name", "save_", "seed", "skip_memory_metrics", "trackio_"),
)
"""Beginnings of keys that may differ between a run and its continuation: they do not change what is trained, or
the lock compares what they name by its content. An option of a plugin says so with `metadata={"free": True}`."""

MAY_GROW = ("max_steps", "num_train_epochs")
"""Keys that may be larger in a continuation, which then has more to do."""


def earlier_result(session: Session, *, in_chain: bool = False) -> StageResult | None:
    """The result of a run that is finished already, None if there is something to do.

    A finished run counts with `resume_from_checkpoint: true`, and always for a stage of a chain, unless
    `overwrite_output_dir` alone is set.

    Raises:
        TkError: the folder is that of the model, or it holds a run and neither overwriting nor resuming
            was asked for.
        LockMismatch: the run in it is another one than this, and cannot be gone on with.
    """
    folder = session.output_dir
    if folder is None:
        return None
    model = session.options.model_name_or_path
    if model is not None and folder.resolve() == Path(model).expanduser().resolve():
        raise TkError(f"output_dir {folder} is the folder of the model", hint="Choose another output_dir.")
    wanted = session.bound.arguments.get("resume_from_checkpoint")
    overwrite = session.options.overwrite_output_dir and not wanted
    if overwrite or not (holds_run(folder) or isinstance(wanted, str)):
        return None
    before = lock_of(Path(wanted).expanduser().parent if isinstance(wanted, str) else folder)
    finished = before is not None and before.result is not None
    if not wanted and not (in_chain and finished):
        raise TkError(
            f"{folder} holds the result of another run, or other files",
            hint="Choose another output_dir, or set `overwrite_output_dir: true`, or continue that run "
            "with `resume_from_checkpoint: true`.",
        )
    if before is None:
        return None
    grown = refuse_changes(before, session, folder)
    if before.result is None or grown or isinstance(wanted, str):
        return None
    return StageResult(None, folder, before.result["steps"], before.result["metrics"])


def holds_run(folder: Path) -> bool:
    """Whether a folder holds more than the traces of a run that failed before its first step."""
    return folder.is_dir() and bool({path.name for path in folder.iterdir()} - NO_RESULT)


def lock_of(folder: Path) -> lock.Lock | None:
    """The lock of the run in a folder; None where there is none that can be read."""
    return lock.read_lock(folder / lock.FILE_NAME)[0] if (folder / lock.FILE_NAME).is_file() else None


def refuse_changes(before: lock.Lock, session: Session, folder: Path) -> bool:
    """Raise `LockMismatch` if the run is not the one that wrote the lock; true if it is to do more steps."""
    old, new = told(before, session), told(session.lock(), session)
    grown = False
    for key in (f"settings {name}" for name in MAY_GROW):
        if key in old and key in new and 0 < float(old[key]) < float(new[key]):
            del old[key], new[key]
            grown = True
    if lines := lock.difference(old, new):
        start = newest_weights(folder) or folder
        raise LockMismatch(
            "\n  ".join([f"{folder} holds a run of something else, and cannot be gone on with:", *lines]),
            hint="Restore what the `-` lines say, or begin anew from its weights: "
            f"`warm_start: {start}` with another `output_dir`, or `--warm-start`.",
        )
    return grown


def told(content: lock.Lock, session: Session) -> dict[str, str]:
    """A lock with the settings that count, in the types of the session; those at their default as if set."""
    found = {
        f"settings {name}": key.default
        for name, key in session.bound.keys.items()
        if name in MAY_GROW and key.default
    }
    for setting in content.settings:
        key = session.bound.keys.get(setting.key)
        if setting.key.startswith(MAY_CHANGE) or (key is None and setting.key not in RENAMES):
            continue  # the keys of other plugins come with another plan
        value: Any = setting.value
        if key is not None:
            value, problem = convert(setting, key.annotation, {})
            value = setting.value if problem else value
            if key.bounds.get("free") or is_default(value, key.default):
                continue
        found[f"settings {setting.key}"] = str(value)
    return found | lock.contents(content)


def is_default(value: Any, default: str) -> bool:
    """Whether a value is the one that `default` writes as Python."""
    try:
        return bool(ast.literal_eval(default) == value)
    except (ValueError, SyntaxError):
        return default == str(value)


def warm_start(settings: Settings) -> tuple[Settings, list[Problem]]:
    """Settings in which `warm_start` has become the model or the adapters that it means.

    A path is a checkpoint, or a run's folder: its result if it is finished, else its newest checkpoint. True
    is the run in `output_dir`, beside which the new one is written (`out-2`).
    """
    written = settings.setting("warm_start")
    value, problem = convert(written, bool | str | None, {})
    layers = settings.without("warm_start")
    output = str(settings.get("output_dir") or "")
    resume = settings.get("resume_from_checkpoint")
    if value is True and not output:
        return Settings(layers), []  # that it is missing is told elsewhere
    if value is True and resume:
        message = "`warm_start: true` begins a new run, and `resume_from_checkpoint` goes on with one"
        problem = Problem(message, written.origin, "warm_start", "Keep one of the two.")
    if problem is not None or not value:
        return Settings(layers), [problem] if problem else []
    folder = Path(output if value is True else value).expanduser()
    weights = newest_weights(folder)
    if weights is None:
        message = f"there is nothing to start from in {folder}: no checkpoint and no weights"
        return Settings(layers), [
            Problem(message, written.origin, "warm_start", "Name a checkpoint's folder.")
        ]
    found: Mapping[str, Any] = {"model_name_or_path": str(weights), "adapter_name_or_path": []}
    if is_adapter(str(weights)):
        adapters: tuple[str, ...] = ()
        if "adapter_name_or_path" in settings:
            adapters = convert(settings.setting("adapter_name_or_path"), tuple[str, ...], {})[0] or ()
        found = {"adapter_name_or_path": list(adapters_after(settings, adapters, str(weights)))}
    if value is True:
        found = {**found, "output_dir": beside(folder)}
    origin = f"warm_start ({written.origin})"
    return Settings([*layers, [Setting(key, item, origin) for key, item in found.items()]]), []


def newest_weights(folder: Path) -> Path | None:
    """The weights of a finished run, else its newest checkpoint, else the folder itself; None if it has none."""
    before = lock_of(folder)
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    checkpoints.sort(key=lambda path: int(path.name[11:]), reverse=True)
    finished = before is not None and before.result is not None
    for path in [folder, *checkpoints] if finished else [*checkpoints, folder]:
        described = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
        if described and any(file.suffix in lock.WEIGHTS for file in path.iterdir()):
            return path
    return None


def beside(folder: Path) -> str:
    """The first of `out-2`, `out-3`, ... that is not there yet."""
    number = 2
    while (path := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return str(path)


def adapters_after(settings: Settings, adapters: tuple[str, ...], folder: str) -> tuple[str, ...]:
    """The adapters of a run that goes on from `folder`: the last of `adapters` is the one trained further,
    unless all were merged below a new one."""
    key = "create_new_adapter"
    merged = key in settings and convert(settings.setting(key), bool, {})[0]
    return (*(adapters if merged else adapters[:-1]), folder)

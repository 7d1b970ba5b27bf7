"""Temporary folders of mapped files: removed when nothing refers to the files any more."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "tk-rows-"
_LOCK = "lock"
_held: dict[Path, int] = {}
"""Folders of this process -> the descriptor of the lock that shows others that it lives."""
_filled: set[Path] = set()
"""Those of them whose files are written: once nothing maps them, nothing needs them."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder below `TMPDIR` to write files to and to open them in; what raises inside removes it.

    Nothing has to be closed. A folder goes at the next call of this function after the last reference to
    its mapped files is gone, at the latest when the process ends; one that a killed process has left, at
    the next call in any process.
    """
    _sweep()
    # Locked before it has the name by which others find what was abandoned.
    draft = Path(tempfile.mkdtemp(prefix="tk-new-"))
    descriptor = os.open(draft / _LOCK, os.O_CREAT | os.O_RDWR)
    _locked(descriptor)
    folder = draft.rename(draft.with_name(draft.name.replace("tk-new-", _PREFIX)))
    _held[folder] = descriptor
    try:
        yield folder
    except BaseException:
        _remove(folder)
        raise
    _filled.add(folder)


def _sweep() -> None:
    with suppress(FileNotFoundError):  # no /proc: they go when the process ends
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        for folder in [folder for folder in _filled if f" {folder.resolve()}{os.sep}" not in maps]:
            _remove(folder)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder not in _held:
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # just being made, or another user's
        return
    try:
        if _locked(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Take the lock if nobody has it; False where another process has, or where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _filled.discard(folder)
    os.close(_held.pop(folder))


def _remove_all(owner: int = os.getpid()) -> None:
    # A forked child inherits this list and must leave the folders of its parent alone.
    if os.getpid() == owner:
        for folder in list(_held):
            _remove(folder)


atexit.register(_remove_all)

"""Prepared data on disk: found by the content that it was made of, never half written, never read damaged.

Below the cache folder are `rows/KEY` and `samples/KEY`, each with a manifest of all that the key is made
of, `drafts` for what is being written, and `locks`. An entry is written as a draft, brought to the disk and
renamed, so it is there as a whole or not at all; what is read is compared with the checksums of its
manifest. One process writes an entry while others that want it wait; a lock dies with its process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tkernel.errors import TkError
from tkernel_plugins.data.cache_entry import (
    MANIFEST,
    Damaged,
    Entry,
    Write,
    checksums,
    commit,
    manifest_of,
    read_manifest,
    verified,
    words_of_time,
    written,
)
from tkernel_plugins.data.cache_key import Key, NoKey, missed
from tkernel_plugins.data.scratch import scratch_folder

KINDS = ("rows", "samples")

_NEAR = 50

T = TypeVar("T")


def cache_folder() -> Path:
    """`$TK_CACHE_DIR`, else `tkernel/data` in the user's cache folder."""
    if given := os.environ.get("TK_CACHE_DIR"):
        return Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tkernel" / "data"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.devnull) / "no home folder"


def kept(
    key: Key | NoKey,
    write: Write,
    opened: Callable[[Entry], T],
    label: str,
    *,
    rebuild: bool = False,
    passing: Callable[[Path], str | None] = lambda folder: None,
    told: Callable[[str], None] = lambda outcome: None,
) -> T:
    """What `opened` makes of the entry of `key`, which `write` makes if it is not there.

    Without a key, or where the cache cannot be written, the files live as long as somebody maps them.

    Args:
        key: what the files are made of, or why that cannot be known.
        write: makes them; what it raises leaves nothing behind.
        opened: maps the files that it needs, and returns what the caller wants of them.
        label: what they are, for lists.
        rebuild: write them even if they are there.
        passing: why files that were written must not be kept; None if they may.
        told: called with the outcome as soon as it is known, before anything is written.

    Raises:
        TkError: the disk is full.
    """
    if isinstance(key, NoKey):
        return _passing(key, write, opened, label, f"not used: {key.reason}", told)
    root, started = cache_folder(), time.time()
    folder = root / key.kind / key.name
    found, damage = found_damage(folder, key)
    if found and not rebuild:
        return opened(_used(found, told))
    try:
        with _locked(root, key.name):
            found, damage = found_damage(folder, key)
            if found and (not rebuild or found.manifest["created"] >= started):
                return opened(_used(found, told))  # another process made it while this one waited
            why = "miss: overwrite_cache is set" if rebuild else damage or missed(key, _near(root, key.kind))
            told(why)
            sweep(root)
            with _draft(root) as draft:
                content = written(write, draft)
                if reason := passing(draft):
                    moved = partial(_moved, draft, content)
                    return _passing(key, moved, opened, label, f"not kept: {reason}", told)
                manifest = manifest_of(key, label, content, checksums(draft))
                commit(draft, folder, manifest)
            return opened(Entry(folder, manifest, hit=False, outcome=why))
    except _Unwritable as error:
        outcome = f"not used: {root} cannot be written ({error})"
        return _passing(key, write, opened, label, outcome, told)


def entries(kind: str, root: Path | None = None) -> list[Entry]:
    """Whole entries of a kind by their manifests, the last used first; their files are not looked at."""
    found = []
    for folder in (root or cache_folder()).joinpath(kind).glob("*"):
        try:
            found.append(Entry(folder, read_manifest(folder)))
        except Damaged:
            continue
    return sorted(found, key=lambda entry: -entry.used)


def found_damage(folder: Path, key: Key) -> tuple[Entry | None, str | None]:
    """The whole entry of `key`, or else why there is none if it is not just missing."""
    if not folder.exists():
        return None, None
    try:
        entry = verified(folder)
    except Damaged as damage:
        return None, f"miss: the entry {folder.name[:8]} was damaged ({damage})"
    if dict(entry.components) != dict(key.components):
        return None, f"miss: the entry {folder.name[:8]} belongs to another key"
    return entry, None


def copied(entry: Entry, target: Path) -> Entry:
    """A second copy of an entry, outside of the cache, in place of what was there.

    Raises:
        TkError: the disk is full, or `target` cannot be written.
    """
    try:
        with _locked(cache_folder(), hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:32]):
            return _copied(entry, target)
    except _Unwritable:  # without locks, processes that start together write one after the other's copy
        return _copied(entry, target)


def _copied(entry: Entry, target: Path) -> Entry:
    def files(folder: Path) -> Mapping[str, Any]:
        for name in entry.manifest["files"]:
            shutil.copyfile(entry.folder / name, folder / name)
        return {}

    try:
        there = verified(target)
        if there.manifest["files"] == entry.manifest["files"] and there.components == entry.components:
            return Entry(target, there.manifest, hit=entry.hit, outcome=entry.outcome)
    except Damaged:
        pass  # It is written now.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        written(files, draft)
        commit(draft, target, entry.manifest)
    except OSError as error:
        raise TkError(f"cannot write to {target}: {error.strerror}", hint="Choose another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Entry(target, entry.manifest, hit=entry.hit, outcome=entry.outcome)


def remove(entry: Entry, root: Path | None = None) -> bool:
    """Delete an entry; False if a process is writing it right now."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(_lock_file(root or cache_folder(), entry.folder.name), timeout=0):
            shutil.rmtree(entry.folder)
    except Timeout:
        return False
    return True


def remove_unreadable(root: Path) -> int:
    """Delete what is no entry, or one of another version of tk; how many there were."""
    readable = {entry.folder for kind in KINDS for entry in entries(kind, root)}
    folders = [path for kind in KINDS for path in root.joinpath(kind).glob("*") if path not in readable]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


def sweep(root: Path) -> None:
    """Delete drafts of processes that ended before they were done."""
    from filelock import FileLock, Timeout

    for draft in root.joinpath("drafts").glob("*.lock"):
        try:
            with FileLock(draft, timeout=0):
                shutil.rmtree(draft.with_suffix(""), ignore_errors=True)
                draft.unlink(missing_ok=True)
        except Timeout:
            continue  # it is being written


class _Unwritable(Exception):
    """The cache folder cannot be written."""


@contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Hold the lock of an entry; says so once if another process has it."""
    from filelock import FileLock, Timeout

    try:
        for folder in ("locks", "drafts", *KINDS):
            root.joinpath(folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_file(root, name))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(
                "cache: another process is preparing the same data; waiting for it",
                file=sys.stderr,
                flush=True,
            )
            lock.acquire()
    except OSError as error:
        raise _Unwritable(error.strerror or str(error)) from None
    except NotImplementedError:
        raise _Unwritable("its file system has no locks") from None
    with lock:
        lock.release()  # `acquire` and `with` both count
        yield


def _lock_file(root: Path, name: str) -> Path:
    return root / "locks" / f"{name}.lock"


def _used(entry: Entry, told: Callable[[str], None]) -> Entry:
    try:
        os.utime(entry.folder / MANIFEST)
    except OSError:
        pass  # A cache that is only read keeps its times.
    outcome = f"hit: {entry.folder.name[:8]}, prepared {words_of_time(entry.age)} ago"
    told(outcome)
    return Entry(entry.folder, entry.manifest, True, outcome)


def _near(root: Path, kind: str) -> list[Mapping[str, str]]:
    return [entry.components for entry in entries(kind, root)[:_NEAR]]


@contextmanager
def _draft(root: Path) -> Iterator[Path]:
    """An empty folder, which `sweep` leaves alone while this process writes it."""
    from filelock import FileLock

    folder = root / "drafts" / uuid.uuid4().hex
    lock = folder.with_suffix(".lock")
    with FileLock(lock):
        folder.mkdir()  # only now: `sweep` may take the lock first, and delete what is there
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _passing(
    key: Key | NoKey,
    write: Write,
    opened: Callable[[Entry], T],
    label: str,
    outcome: str,
    told: Callable[[str], None],
) -> T:
    """The same with files that nobody else finds."""
    told(outcome)
    with scratch_folder() as folder:
        content = written(write, folder)
        manifest = manifest_of(key, label, content, checksums(folder))
        return opened(Entry(folder, manifest, hit=False, outcome=outcome))


def _moved(draft: Path, content: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    for file in draft.iterdir():
        shutil.move(file, folder / file.name)
    return content

"""Prepared data on disk: found by the content that it was made of, never half written, never read damaged.

Below the cache folder are `rows/KEY` and `samples/KEY`, each with a manifest of all that the key is made
of, `drafts` for what is being written, and `locks`. An entry is written as a draft, brought to the disk and
renamed, so it is there as a whole or not at all; what is read is compared with the checksums of its
manifest. One process writes an entry while others that want it wait; a lock dies with its process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tkernel.errors import TkError
from tkernel_plugins.data.arrow_files import digest_file
from tkernel_plugins.data.cache_key import Key, NoKey, missed
from tkernel_plugins.data.scratch import scratch_folder

SCHEMA = 1
MANIFEST = "manifest.json"
KINDS = ("rows", "samples")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEAR = 50

T = TypeVar("T")
Write = Callable[[Path], Mapping[str, Any]]
"""Fills a folder with files, and returns what the manifest is to say about them (plain values)."""


@dataclass(frozen=True)
class Entry:
    """A folder of files and what its manifest says about it.

    `hit` is whether the files were there already; `outcome` says that, and why not, in a few words.
    """

    folder: Path
    manifest: Mapping[str, Any]
    hit: bool = True
    outcome: str = ""

    @property
    def content(self) -> Mapping[str, Any]:
        """What was said when the files were written."""
        found: Mapping[str, Any] = self.manifest["content"]
        return found

    @property
    def components(self) -> Mapping[str, str]:
        """What the key is made of."""
        found: Mapping[str, str] = self.manifest["components"]
        return found

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(int(file["size"]) for file in self.manifest["files"].values())

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return float(max(time.time() - self.manifest["created"], 0.0))

    @property
    def used(self) -> float:
        """When it was last read or written, in seconds since 1970."""
        return (self.folder / MANIFEST).stat().st_mtime


class Damaged(Exception):
    """A folder is no whole entry; the message says what is wrong with it."""


def cache_folder() -> Path:
    """`$TK_CACHE_DIR`, else `tkernel/data` in the user's cache folder."""
    if given := os.environ.get("TK_CACHE_DIR"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tkernel" / "data"


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
                content = _written(write, draft)
                if reason := passing(draft):
                    moved = partial(_moved, draft, content)
                    return _passing(key, moved, opened, label, f"not kept: {reason}", told)
                manifest = _manifest(key, label, content, _checksums(draft))
                _commit(draft, folder, manifest)
            return opened(Entry(folder, manifest, hit=False, outcome=why))
    except _Unwritable as error:
        outcome = f"not used: {root} cannot be written ({error})"
        return _passing(key, write, opened, label, outcome, told)


def entries(kind: str, root: Path | None = None) -> list[Entry]:
    """Whole entries of a kind by their manifests, the last used first; their files are not looked at."""
    found = []
    for folder in (root or cache_folder()).joinpath(kind).glob("*"):
        try:
            found.append(Entry(folder, _read_manifest(folder)))
        except Damaged:
            continue
    return sorted(found, key=lambda entry: -entry.used)


def verified(folder: Path) -> Entry:
    """The entry in `folder`, its files read and compared with their checksums.

    Raises:
        Damaged: it is not whole.
    """
    manifest = _read_manifest(folder)
    for name, wanted in manifest["files"].items():
        file = folder / name
        try:
            if file.stat().st_size != wanted["size"] or digest_file(file) != wanted["xxh3"]:
                raise Damaged(f"{name} is not what was written")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
    return Entry(folder, manifest)


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

    def files(folder: Path) -> Mapping[str, Any]:
        for name in entry.manifest["files"]:
            shutil.copyfile(entry.folder / name, folder / name)
        return {}

    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        _written(files, draft)
        _commit(draft, target, entry.manifest)
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


def words_of_time(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _near(root: Path, kind: str) -> list[Mapping[str, str]]:
    return [entry.components for entry in entries(kind, root)[:_NEAR]]


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{MANIFEST}: {error.strerror}") from None
    except ValueError:
        raise Damaged(f"{MANIFEST} is no JSON") from None
    names = ("components", "content", "files", "created", "label", "kind")
    if not isinstance(manifest, dict) or not all(name in manifest for name in names):
        raise Damaged(f"{MANIFEST} is none")
    if manifest.get("schema") != SCHEMA:
        raise Damaged(f"{MANIFEST} has schema {manifest.get('schema')!r}, and this tk reads schema {SCHEMA}")
    return manifest


def _manifest(
    key: Key | NoKey, label: str, content: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": key.kind if isinstance(key, Key) else None,
        "label": label,
        "created": time.time(),
        "components": dict(key.components) if isinstance(key, Key) else {},
        "content": dict(content),
        "files": dict(files),
    }


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return {file.name: {"size": file.stat().st_size, "xxh3": digest_file(file)} for file in files}


def _commit(draft: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Bring a draft to the disk and make it the entry, in place of one that was there."""
    try:
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in (*draft.iterdir(), draft):
            _sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(draft, folder)
        _sync(folder.parent)
    except OSError as error:
        raise _explained(error, draft) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _draft(root: Path) -> Iterator[Path]:
    """An empty folder, which `sweep` leaves alone while this process writes it."""
    from filelock import FileLock

    folder = Path(tempfile.mkdtemp(dir=root / "drafts"))
    lock = folder.with_suffix(".lock")
    with FileLock(lock):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _written(write: Write, folder: Path) -> Mapping[str, Any]:
    try:
        return write(folder)
    except OSError as error:
        raise _explained(error, folder) from error


def _explained(error: OSError, folder: Path) -> Exception:
    if error.errno not in _FULL:
        return error
    return TkError(
        f"the data cannot be written to {folder.parent}: {error.strerror}",
        hint="Make room, set TK_CACHE_DIR to a folder on another disk, or empty the cache: tk data cache clear",
    )


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
        content = _written(write, folder)
        manifest = _manifest(key, label, content, _checksums(folder))
        return opened(Entry(folder, manifest, hit=False, outcome=outcome))


def _moved(draft: Path, content: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    for file in draft.iterdir():
        shutil.move(file, folder / file.name)
    return content

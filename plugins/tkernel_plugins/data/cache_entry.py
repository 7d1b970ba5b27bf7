"""One entry of the cache: a folder of files with a manifest of what they are and what they were made of."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel_plugins.data.arrow_files import digest_file
from tkernel_plugins.data.cache_key import Key, NoKey

SCHEMA = 1
MANIFEST = "manifest.json"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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


def verified(folder: Path) -> Entry:
    """The entry in `folder`, its files read and compared with their checksums.

    Raises:
        Damaged: it is not whole.
    """
    manifest = read_manifest(folder)
    for name, wanted in manifest["files"].items():
        file = folder / name
        try:
            if file.stat().st_size != wanted["size"] or digest_file(file) != wanted["xxh3"]:
                raise Damaged(f"{name} is not what was written")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
    return Entry(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest in `folder` says.

    Raises:
        Damaged: there is none that this version can read.
    """
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


def manifest_of(
    key: Key | NoKey, label: str, content: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    """What a manifest says: which version of it this is, what the files are, and what they were made of."""
    return {
        "schema": SCHEMA,
        "kind": key.kind if isinstance(key, Key) else None,
        "label": label,
        "created": time.time(),
        "components": dict(key.components) if isinstance(key, Key) else {},
        "content": dict(content),
        "files": dict(files),
    }


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of each file in `folder`."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return {file.name: {"size": file.stat().st_size, "xxh3": digest_file(file)} for file in files}


def written(write: Write, folder: Path) -> Mapping[str, Any]:
    """What `write` returns, with a full disk as a TkError that says what to do."""
    try:
        return write(folder)
    except OSError as error:
        raise _explained(error, folder) from error


def commit(draft: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
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


def _explained(error: OSError, folder: Path) -> Exception:
    if error.errno not in _FULL:
        return error
    return TkError(
        f"the data cannot be written to {folder.parent}: {error.strerror}",
        hint="Make room, set TK_CACHE_DIR to a folder on another disk, or empty the cache: tk data cache clear",
    )


def words_of_time(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"

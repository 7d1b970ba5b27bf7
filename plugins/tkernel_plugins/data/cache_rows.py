"""Canonical rows in the cache, so that a file is parsed once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.types.dataset import DatasetReport
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.arrow_files import digest_rows, schema_of
from tkernel_plugins.data.cache import kept
from tkernel_plugins.data.cache_entry import Entry
from tkernel_plugins.data.cache_key import Key, NoKey
from tkernel_plugins.data.cache_parts import code
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.options import ACCESS
from tkernel_plugins.data.sources import content_key

if TYPE_CHECKING:
    import datasets

ROWS, ORDER = "rows.arrow", "order.npy"

_DIGESTS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def keep_rows(
    request: DatasetRequest,
    write: Callable[[Path], None],
    read: Callable[[Path, DatasetReport], datasets.Dataset],
) -> datasets.Dataset:
    """The rows of a request, out of the cache if its files were read before with the same options.

    Args:
        write: fills a folder with `rows.arrow` and what `read` needs beside it.
        read: maps the rows and fills the report.
    """

    def content(folder: Path) -> Mapping[str, Any]:
        write(folder)
        return {"rows": request.report.kept}

    def opened(entry: Entry) -> datasets.Dataset:
        rows = read(entry.folder, request.report)
        files = entry.manifest["files"]
        digests = [files[name]["xxh3"] for name in (ROWS, ORDER) if name in files]
        _DIGESTS[rows] = f"xxh3:{'-'.join(digests)}"
        return rows

    label = f"{request.entry.name}, {request.rows} rows"
    return kept(row_key(request), content, opened, label, passing=_media)


def row_key(request: DatasetRequest) -> Key | NoKey:
    """What the rows of a request depend on."""
    entry, options = request.entry, request.options
    if request.identity is None:
        return NoKey("the dataset plugin is an object in memory")
    content = content_key(entry, options)
    if content is None:
        return NoKey(
            "the rows are in memory" if entry.source == "memory" else "nothing says whether they changed"
        )
    described = {
        field.name: repr(getattr(entry, field.name))
        for field in fields(entry)
        if field.compare and field.name != "origin"
    }
    names = [field.name for field in fields(options) if field.name not in ACCESS] if options else []
    chosen = {name: repr(getattr(options, name)) for name in names}
    seed = {"seed": str(request.seed)} if entry.num_samples is not None else {}
    return Key(
        "rows",
        {
            "content of the files": content,
            "kind of rows": request.rows,
            **described,
            **chosen,
            **seed,
            "dataset plugin": request.identity,
            **code(),
        },
    )


def digest_of(rows: datasets.Dataset) -> str:
    """The content of a dataset: what was found when its file was read, else a digest of its Arrow buffers."""
    known = _DIGESTS.get(rows)
    return known if known is not None else f"xxh3:{digest_rows(rows)}"


def _media(folder: Path) -> str | None:
    # Which file a path of a row names depends on what is in the media folders.
    has_media = any(name in schema_of(folder / ROWS).names for name in MEDIA)
    return "rows with media are read anew, as their files may have moved" if has_media else None

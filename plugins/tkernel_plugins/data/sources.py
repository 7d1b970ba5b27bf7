"""From a dataset entry to raw rows, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.arrow_files import digest_files
from tkernel_plugins.data.file_split import part_of
from tkernel_plugins.data.files import data_files, read_file
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.raw import File, RawRow


def raw_rows(
    entry: DatasetEntry, options: RowOptions | None = None, *, streaming: bool = False
) -> Iterator[RawRow]:
    """The rows of `entry`, in order; each call begins anew.

    Files are read as streams, also those at a URL. With `streaming`, a dataset on the Hugging Face hub is
    not downloaded as a whole. Of the `options` only those count that say how a hub is reached.

    Raises:
        DataError: they cannot be read, at once or while they are iterated.
    """
    if entry.source in ("hf_hub", "ms_hub", "om_hub"):
        from tkernel_plugins.data.hubs import hub_dataset, rows_of

        return rows_of(entry.location, hub_dataset(entry, options or RowOptions(), streaming))
    if entry.source in ("file", "cloud"):
        return part_of(lambda: (row for file in files_of(entry) for row in read_file(file)), entry)
    if entry.source == "memory":
        return _rows_in_memory(entry)
    raise DataError(
        f"dataset {entry.name!r} is a loading script, {entry.location}; "
        "scripts are code from elsewhere and are not run",
        hint="Save its rows as JSON lines or Parquet and name the file.",
        origin=entry.origin,
    )


def files_of(entry: DatasetEntry) -> list[File]:
    """The files of an entry whose source is `file` or `cloud`."""
    if entry.source == "file":
        return data_files(entry.path)
    from tkernel_plugins.data.url_files import url_files

    return [*url_files(entry.location)]


def content_key(entry: DatasetEntry, options: RowOptions | None = None) -> str | None:
    """A key of the content of the rows, found without parsing them; None where there is no such key.

    Of local files it is a digest of their bytes, at a URL what the server says of them, on a hub the commit.

    Raises:
        DataError: the files are not there, or cannot be read.
    """
    if entry.source == "file":
        files = data_files(entry.path)
        try:
            return digest_files(map(Path, map(str, files)))
        except OSError as error:
            raise DataError(f"{entry.location}: cannot be read: {error.strerror}") from None
    if entry.source == "cloud":
        from tkernel_plugins.data import url_files

        return url_files.content_of(entry.location)
    if entry.source in ("hf_hub", "ms_hub", "om_hub"):
        from tkernel_plugins.data import hubs

        return hubs.content_of(entry, options or RowOptions())
    return None


def _rows_in_memory(entry: DatasetEntry) -> Iterator[RawRow]:
    if entry.data is None:
        raise DataError(f"dataset {entry.name!r} is in memory and has no rows")
    if isinstance(entry.data, (list, tuple)):
        return (RawRow(entry.name, row, None, value) for row, value in enumerate(entry.data))
    from tkernel_plugins.data.hubs import rows_of

    return rows_of(entry.name, entry.data)

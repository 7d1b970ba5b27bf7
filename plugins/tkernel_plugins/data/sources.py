"""From a dataset entry to raw rows, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.files import read_files
from tkernel_plugins.data.raw import RawRow

_NOT_YET = {
    "ms_hub": "ModelScope",
    "om_hub": "Modelers (openMind)",
    "cloud": "cloud storage",
}


def raw_rows(entry: DatasetEntry) -> Iterator[RawRow]:
    """The rows of `entry`, in order.

    Raises:
        DataError: they cannot be read; for a source that is not supported the message names it.
    """
    if entry.source == "file":
        return read_files(entry.location)
    if entry.source == "hf_hub":
        return _rows_of_dataset(entry.location, _load_from_hub(entry))
    if entry.source == "memory":
        return _rows_in_memory(entry)
    declared = f" ({entry.origin})" if entry.origin else ""
    if entry.source == "script":
        raise DataError(
            f"dataset {entry.name!r}{declared} is a loading script, {entry.location}; "
            "scripts are code from elsewhere and are not run",
            hint="Save its rows as JSON lines or Parquet and name the file.",
        )
    raise DataError(
        f"dataset {entry.name!r}{declared} is on {_NOT_YET[entry.source]}, which is not supported",
        hint=f"Download {entry.location} and name the file, or give its id on the Hugging Face hub.",
    )


def _load_from_hub(entry: DatasetEntry) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return datasets.load_dataset(
            entry.location, name=entry.subset, data_dir=entry.folder, split=entry.split
        )
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise DataError(
            f"{entry.location} is a loading script; scripts are code from elsewhere and are not run",
            hint="Name a dataset that consists of data files, or its `refs/convert/parquet` revision saved to a file.",
        ) from None
    except (datasets.exceptions.DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        parts = ", ".join(
            f"{what} {value!r}"
            for what, value in (("subset", entry.subset), ("folder", entry.folder), ("split", entry.split))
            if value
        )
        raise DataError(
            f"{entry.location} ({parts}) cannot be read from the Hugging Face hub: {error}",
            hint="A local file is named by its path; a private dataset needs HF_TOKEN.",
        ) from None


def _rows_in_memory(entry: DatasetEntry) -> Iterator[RawRow]:
    if entry.data is None:
        raise DataError(f"dataset {entry.name!r} is in memory and has no rows")
    if isinstance(entry.data, (list, tuple)):
        return (RawRow(entry.name, row, None, value) for row, value in enumerate(entry.data))
    return _rows_of_dataset(entry.name, entry.data)


def _rows_of_dataset(name: str, dataset: Any) -> Iterator[RawRow]:
    """Rows of a `datasets.Dataset` as Arrow stores them (media stay bytes or paths), or of any iterable."""
    row = 0
    if hasattr(dataset, "with_format") and hasattr(dataset, "num_rows"):
        for table in dataset.with_format("arrow").iter(batch_size=1000):
            for value in table.to_pylist():
                yield RawRow(name, row, None, value)
                row += 1
        return
    for value in dataset:
        yield RawRow(name, row, None, value)
        row += 1

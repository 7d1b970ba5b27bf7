"""Datasets on hubs: Hugging Face's through `datasets`, ModelScope's and Modelers' through a local copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tkernel.errors import DataError
from tkernel.lock import content_hash
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.raw import RawRow

_SCRIPT = (
    "{} is a loading script; scripts are code from elsewhere and are not run",
    "Name a dataset that consists of data files, or its `refs/convert/parquet` revision saved to a file.",
)


def hub_dataset(entry: DatasetEntry, options: RowOptions, streaming: bool = False) -> Any:
    """The `datasets.Dataset` (or, when streaming, `IterableDataset`) of an entry on a hub.

    Raises:
        DataError: it cannot be had; the message says from where and why.
    """
    if entry.source == "hf_hub":
        return _load(entry, entry.location, "the Hugging Face hub", options, streaming)
    folder = downloaded(entry, options)
    return _load(entry, str(folder), _NAMES[entry.source], options, streaming)


_NAMES = {"ms_hub": "ModelScope", "om_hub": "Modelers (openMind)"}


def downloaded(entry: DatasetEntry, options: RowOptions) -> Path:
    """The folder that ModelScope's or Modelers' own client keeps a dataset in, fetched if it is not there."""
    hub = _NAMES[entry.source]
    try:
        if entry.source == "ms_hub":
            from modelscope.hub.snapshot_download import dataset_snapshot_download

            return Path(dataset_snapshot_download(entry.location, token=options.ms_hub_token))
        from openmind_hub import snapshot_download

        return Path(snapshot_download(entry.location, repo_type="dataset", token=options.om_hub_token))
    except ModuleNotFoundError as error:
        extra = {"ms_hub": "modelscope", "om_hub": "openmind"}[entry.source]
        raise DataError(
            f"dataset {entry.name!r} is on {hub}, and its client is not installed ({error.name})",
            hint=f'Run: pip install "tkernel[{extra}]"',
            origin=entry.origin,
        ) from None
    except Exception as error:  # what a client raises depends on its version and on where it failed
        raise DataError(
            f"{entry.location} cannot be fetched from {hub}: {_text(error)}",
            hint="Check the name and the network; a private dataset needs `ms_hub_token` or `om_hub_token`.",
            origin=entry.origin,
        ) from error


def _load(entry: DatasetEntry, path: str, hub: str, options: RowOptions, streaming: bool) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            path,
            name=entry.subset,
            data_dir=entry.folder,
            split=entry.split,
            streaming=streaming,
            cache_dir=options.cache_dir,
            token=options.hf_hub_token,
        )
    except Exception as error:  # of datasets, of the hub's client, of the network
        if isinstance(error, RuntimeError) and "script" in str(error):
            raise DataError(_SCRIPT[0].format(entry.location), hint=_SCRIPT[1], origin=entry.origin) from None
        named = (("subset", entry.subset), ("folder", entry.folder), ("split", entry.split))
        parts = ", ".join(f"{what} {value!r}" for what, value in named if value)
        raise DataError(
            f"{entry.location} ({parts}) cannot be read from {hub}: {_text(error)}",
            hint="A local file is named by its path; a private dataset needs `hf_hub_token`.",
            origin=entry.origin,
        ) from error


def rows_of(name: str, dataset: Any) -> Iterator[RawRow]:
    """Rows of a `datasets.Dataset` as Arrow stores them (media stay bytes or paths), or of any iterable."""
    import datasets

    row = 0
    if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        try:
            for table in dataset.with_format("arrow").iter(batch_size=1000):
                for value in table.to_pylist():
                    yield RawRow(name, row, None, value)
                    row += 1
        except Exception as error:  # a stream fails while it is read, with anything
            raise DataError(f"{name}: cannot be read after row {row - 1}: {_text(error)}") from error
        return
    for value in dataset:
        yield RawRow(name, row, None, value)
        row += 1


def content_of(entry: DatasetEntry, options: RowOptions) -> str | None:
    """A key of the content on the hub: the commit, or the files that were fetched; None if it is not told."""
    if entry.source != "hf_hub":
        return content_hash(downloaded(entry, options))
    from huggingface_hub import HfApi

    try:
        commit = HfApi(token=options.hf_hub_token).dataset_info(entry.location, timeout=10).sha
    except Exception:  # offline, what is cached is used, and which commit that is `datasets` does not say
        return None
    return f"{os.environ.get('HF_ENDPOINT', 'hf')}/{entry.location}@{commit}" if commit else None


def fetch_info(repository: str) -> str:
    """The path of `dataset_info.json` in a dataset repository of the Hugging Face hub, fetched if need be.

    Raises:
        DataError: there is none, or the hub cannot be reached.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    name = "dataset_info.json"
    try:
        if not constants.HF_HUB_OFFLINE:
            # Asked once without the client's retries, which take half a minute where there is no network.
            get_hf_file_metadata(hf_hub_url(repository, name, repo_type="dataset"))
        return hf_hub_download(repository, name, repo_type="dataset")
    except Exception as error:
        raise DataError(
            f"the list of datasets cannot be fetched from {repository or 'REMOTE:'}: {_text(error)}",
            hint="Write `dataset_dir: REMOTE:owner/name`, of a dataset repository that has a dataset_info.json.",
        ) from error


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__

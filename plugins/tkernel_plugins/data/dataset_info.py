"""The names of `dataset:` into entries: `dataset_info.json` first, then paths and URLs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from tkernel.config.convert import convert
from tkernel.config.json_text import LocatedObject
from tkernel.config.read import Setting, read_json
from tkernel.config.suggest import did_you_mean, near_file
from tkernel.errors import ConfigError, Problem, TkError
from tkernel.types.dataset import DatasetEntry, Source

INFO = "dataset_info.json"

SOURCES: Mapping[str, Source] = {
    "hf_hub_url": "hf_hub",
    "ms_hub_url": "ms_hub",
    "om_hub_url": "om_hub",
    "script_url": "script",
    "cloud_file_name": "cloud",
    "file_name": "file",
}
"""Key of an entry -> where its rows come from; the first that is there counts, but see `HUBS`."""

HUBS = {"ms_hub_url": "USE_MODELSCOPE_HUB", "om_hub_url": "USE_OPENMIND_HUB"}
"""Hubs that go before Hugging Face's where their variable is set, as in LLaMA-Factory."""

FIELDS: Mapping[str, Any] = {
    "formatting": str,
    "ranking": bool,
    "subset": str | None,
    "split": str,
    "folder": str | None,
    "num_samples": int | None,
    "columns": dict[str, str | None],
    "tags": dict[str, str | None],
}
"""The other keys of an entry and their types."""


def resolve(
    names: Sequence[str],
    dataset_dir: str | Mapping[str, Any] = "data",
    media_dir: str | None = None,
    *,
    origin: str | None = None,
    key: str = "dataset",
    media_origin: str | None = None,
    dir_origin: str | None = None,
) -> tuple[tuple[DatasetEntry, ...], list[Problem]]:
    """Entries for the `names` of setting `key` (written at `origin`), and what is wrong with them.

    A name is one of `dataset_dir/dataset_info.json`, else a URL, else the path of a file or folder. The
    format of these two is told from the columns of their first row, which are read here (`seen`). With
    `dataset_dir` `ONLINE` every name is a hub id; `REMOTE:owner/name` has the list in a repository of the
    hub; a mapping is the list itself.
    """
    problems: list[Problem] = []
    if media_dir is not None and not os.path.isdir(media_dir):
        problems.append(Problem(f"there is no folder {media_dir}", media_origin, "media_dir"))
    try:
        info, file = _read_info(dataset_dir, dir_origin)
    except ConfigError as error:
        return (), [*problems, *error.problems]
    except TkError as error:
        return (), [*problems, Problem(error.message, dir_origin or origin, "dataset_dir", error.hint)]
    entries: list[DatasetEntry] = []
    for name in names:
        if info is not None and name in info:
            entry = _declared(name, info, file, dataset_dir, problems)
        else:
            entry = _open(name, dataset_dir, origin)
            if entry is None:
                problems.append(_unknown(name, info, file, origin, key))
        try:
            entries += [entry if entry.formatting else seeing(entry)] if entry else []
        except TkError as error:
            problems.append(Problem(f"dataset {name!r}: {error.message}", origin, key, error.hint))
    return tuple(entries), list(dict.fromkeys(problems))


def seeing(entry: DatasetEntry) -> DatasetEntry:
    """The entry with the columns of its first row; raises `TkError` where they cannot be seen."""
    from tkernel_plugins.data.peek import columns_of

    return replace(entry, seen=tuple(columns_of(entry)))


def _read_info(
    dataset_dir: str | Mapping[str, Any], origin: str | None
) -> tuple[Mapping[str, Any] | None, str]:
    """The list of datasets (None where there is none) and what to call it."""
    if not isinstance(dataset_dir, str):
        return dataset_dir, origin or "dataset_dir"
    if dataset_dir == "ONLINE":
        return None, dataset_dir
    file = Path(dataset_dir, INFO)
    if dataset_dir.startswith("REMOTE:"):
        from tkernel_plugins.data.hubs import fetch_info

        file = Path(fetch_info(dataset_dir[7:]))
    if not os.path.lexists(file):
        return None, str(file)
    info = read_json(file, "list of datasets")
    if not isinstance(info, LocatedObject):
        raise ConfigError([Problem("the file holds no JSON object with datasets", f"{file}:1")])
    return info, str(file)


def _open(name: str, dataset_dir: str | Mapping[str, Any], origin: str | None) -> DatasetEntry | None:
    """The entry of a name that no list declares, in a format that is to be detected."""
    if "://" in name:
        return _at(DatasetEntry(name, name, "cloud", origin=origin))
    if dataset_dir == "ONLINE":
        hub = next((SOURCES[key] for key in HUBS if _set(HUBS[key])), SOURCES["hf_hub_url"])
        return DatasetEntry(name, name, hub, origin=origin)
    places = [name, *([os.path.join(dataset_dir, name)] if isinstance(dataset_dir, str) else [])]
    path = next((place for place in places if name and os.path.exists(place)), None)
    return DatasetEntry(name, path, origin=origin) if path is not None else None


def _at(entry: DatasetEntry) -> DatasetEntry:
    """An entry at a URL; that of a local file is its path."""
    url = urlparse(entry.location)
    if url.scheme != "file" or "::" in entry.location:
        return entry
    return replace(entry, location=unquote(url.path), source="file")


def _set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "y", "1")


def _unknown(name: str, info: Any, file: str, origin: str | None, key: str) -> Problem:
    if info is None:
        hint = f"Set dataset_dir to the folder that has {INFO}, or give paths of data files in `{key}`."
        if os.path.splitext(name)[1]:
            return Problem(f"there is no file {name}, and no list of datasets {file}", origin, key, hint)
        return Problem(f"there is no list of datasets {file}", origin, "dataset_dir", hint)
    folder = os.path.dirname(name) or "."
    files = (
        [os.path.normpath(os.path.join(folder, f)) for f in os.listdir(folder)]
        if os.path.isdir(folder)
        else []
    )
    shown = ", ".join(sorted(map(str, info))[:20]) + (" ..." if len(info) > 20 else "")
    hint = did_you_mean(name, [*info, *files]) or (f"It has: {shown}" if info else f"{file} is empty.")
    return Problem(f"{key} {name!r} is neither in {file} nor a file", origin, key, hint)


def _declared(
    name: str, info: Mapping[str, Any], file: str, dataset_dir: Any, problems: list[Problem]
) -> DatasetEntry | None:
    fields, start, before = info[name], _place(info, name, file), len(problems)
    if not isinstance(fields, Mapping):
        problems.append(Problem(f"dataset {name!r} is no JSON object", start, name))
        return None
    _check_twice(fields, f"dataset {name!r}", file, problems)
    for key in (key for key in fields if key not in (*SOURCES, *FIELDS)):
        hint = did_you_mean(key, (*SOURCES, *FIELDS)) or f"Known are: {', '.join((*SOURCES, *FIELDS))}"
        problems.append(
            Problem(f"unknown key {key!r} in dataset {name!r}", _place(fields, key, file), key, hint)
        )
    values: dict[str, Any] = {"formatting": "alpaca"}
    for key, annotation in {**FIELDS, **dict.fromkeys(SOURCES, str)}.items():
        if key in fields:
            setting = Setting(key, fields[key], _place(fields, key, file))
            values[key], problem = convert(setting, annotation, {"ge": 1} if key == "num_samples" else {})
            problems += [problem] if problem else []
    places: dict[str, str] = {}
    for key in ("columns", "tags"):
        if isinstance(inner := fields.get(key), Mapping):
            _check_twice(inner, f"the {key} of dataset {name!r}", file, problems)
            places |= {f"{key}.{column}": _place(inner, column, file) for column in inner}
            values[key] = {column: value for column, value in inner.items() if value is not None}
    source = _source(fields)
    if source is None:
        hint = 'Add "file_name" or "hf_hub_url".'
        problems.append(Problem(f"dataset {name!r} does not say where its rows are", start, name, hint))
    if source is None or values[source] is None:
        return None
    declared = {key: value for key, value in values.items() if key not in SOURCES}
    entry = DatasetEntry(name, values[source], SOURCES[source], origin=start, places=places, **declared)
    if source == "file_name" and entry.location.strip():
        entry = _beside(entry, dataset_dir)
    entry = _at(entry) if entry.source == "cloud" else entry
    for key in ("subset", "folder"):
        if entry.source in ("file", "cloud") and getattr(entry, key) is not None:
            message = f"`{key}` is of datasets on a hub, and dataset {name!r} is {entry.location}"
            hint = f"Take `{key}` out; a folder of files is named by file_name."
            problems.append(Problem(message, _place(fields, key, file), name, hint))
    if wrong := _wrong_location(entry, values[source], file):
        problems.append(Problem(wrong[0], _place(fields, source, file), name, wrong[1]))
    return entry if len(problems) == before else None


def _wrong_location(entry: DatasetEntry, written: str, file: str) -> tuple[str, str | None] | None:
    """What is wrong with where the rows are said to be, and a hint."""
    path = entry.location
    if not written.strip():
        return f"dataset {entry.name!r} does not say where its rows are: the text is empty", None
    if entry.source == "cloud" and "://" not in path:
        return f"{path!r} is no URL", "Write it as s3://bucket/rows.jsonl, or use file_name."
    if entry.source == "file" and not os.path.exists(path):
        return f"the file of dataset {entry.name!r} is not there: {path}", near_file(entry.path)
    if entry.source == "file" and os.path.exists(file) and os.path.samefile(path, file):
        return f"dataset {entry.name!r} is {file} itself", "Name the file that has the rows."
    return None


def _source(fields: Mapping[str, Any]) -> str | None:
    hubs = tuple(HUBS)
    if "hf_hub_url" in fields:
        hubs = (*(key for key in HUBS if _set(HUBS[key])), "hf_hub_url")
    return next((key for key in (*hubs, "script_url", "cloud_file_name", "file_name") if key in fields), None)


def _beside(entry: DatasetEntry, dataset_dir: Any) -> DatasetEntry:
    """An entry whose `file_name` is a URL, a path below `dataset_dir`, or in the repository of a remote list."""
    if "://" in entry.location:
        return _at(replace(entry, source="cloud"))
    if isinstance(dataset_dir, str) and dataset_dir.startswith("REMOTE:"):
        return replace(entry, location=f"hf://datasets/{dataset_dir[7:]}/{entry.location}", source="cloud")
    return replace(
        entry, location=os.path.join(dataset_dir if isinstance(dataset_dir, str) else "", entry.location)
    )


def _place(found: Mapping[str, Any], key: str, file: str) -> str:
    return f"{file}:{found.lines[key]}" if isinstance(found, LocatedObject) else file


def _check_twice(found: Mapping[str, Any], where: str, file: str, problems: list[Problem]) -> None:
    for key, line, first in getattr(found, "duplicates", ()):
        message = f"{key!r} of {where} is set twice; line {first} sets it too"
        problems.append(Problem(message, f"{file}:{line}", key))

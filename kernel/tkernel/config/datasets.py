"""The names of `dataset:` into entries: `dataset_info.json` first, then paths."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tkernel.config import json_text
from tkernel.config.convert import convert
from tkernel.config.read import Setting, read_json
from tkernel.config.suggest import did_you_mean, near_file
from tkernel.errors import ConfigError, Problem
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
"""Key of an entry -> where its rows come from; the first that is there counts, as in LLaMA-Factory."""

FIELDS: Mapping[str, Any] = {
    "formatting": str,
    "ranking": bool,
    "subset": str | None,
    "split": str,
    "folder": str | None,
    "num_samples": int | None,
    "columns": dict,
    "tags": dict,
}
"""The other keys of an entry and their types."""

COLUMNS = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
)
TAGS = tuple(
    f"{name}_tag" for name in ["role", "content", "user", "assistant", "observation", "function", "system"]
)
FORMATS = ("alpaca", "sharegpt", "openai")
"""Formats whose `columns` and `tags` are LLaMA-Factory's; another one's are its plugin's to check."""

NOT_DATA = ("dataset_info.json", "dataset_dict.json", "state.json")
"""What LLaMA-Factory and `datasets.save_to_disk` put beside the data."""

CHUNK = 1 << 16
LARGEST_ROW = 1 << 26
"""Bytes of a JSON file that are read at most in search of the end of its first row."""

_SCHEMA = """
import sys, pyarrow, pyarrow.ipc, pyarrow.parquet
for read in (
    pyarrow.parquet.read_schema,
    lambda path: pyarrow.ipc.open_stream(pyarrow.memory_map(path)).schema,
    lambda path: pyarrow.ipc.open_file(pyarrow.memory_map(path)).schema,
):
    try:
        print("\\n".join(read(sys.argv[1]).names))
        break
    except pyarrow.ArrowInvalid:
        continue
"""


def resolve(
    names: Sequence[str],
    dataset_dir: str = "data",
    media_dir: str | None = None,
    *,
    origin: str | None = None,
    key: str = "dataset",
    media_origin: str | None = None,
) -> tuple[tuple[DatasetEntry, ...], list[Problem]]:
    """Entries for the `names` of setting `key` (written at `origin`), and what is wrong with them.

    A name is one of `dataset_dir/dataset_info.json`, else the path of a file or folder, whose format is
    then to be detected. With `dataset_dir` `ONLINE` every name is a hub id.
    """
    problems: list[Problem] = []
    if media_dir is not None and not Path(media_dir).is_dir():
        problems.append(Problem(f"there is no folder {media_dir}", media_origin, "media_dir"))
    if dataset_dir == "ONLINE":
        return tuple(DatasetEntry(name, name, "hf_hub", origin=origin) for name in names), problems
    if dataset_dir.startswith("REMOTE:"):
        hint = f"Download {dataset_dir[7:]} and set dataset_dir to its folder."
        message = "dataset_dir cannot be a repository of the hub yet"
        return (), [*problems, Problem(message, origin, "dataset_dir", hint)]
    file = Path(dataset_dir, INFO)
    info: Any = {}
    if file.exists():
        try:
            info = read_json(file, "list of datasets")
        except ConfigError as error:
            return (), [*problems, *error.problems]
        if not isinstance(info, json_text.LocatedObject):
            return (), [*problems, Problem("the file holds no JSON object with datasets", f"{file}:1")]
    entries: list[DatasetEntry] = []
    for name in names:
        if name in info:
            entry = _declared(name, info, file, problems)
            entries += [entry] if entry else []
        elif (path := _existing(name, dataset_dir)) is not None:
            if reason := _unreadable(path):
                problems.append(Problem(f"dataset {name!r}: {reason}", origin, key))
            else:
                entries.append(DatasetEntry(name, str(path), origin=origin))
        elif file.exists():
            problems.append(_unknown(name, info, file, origin, key))
        else:
            hint = f"Set dataset_dir to the folder that has {INFO}, or give paths of data files in `dataset`."
            problems.append(Problem(f"there is no list of datasets {file}", origin, "dataset_dir", hint))
    return tuple(entries), list(dict.fromkeys(problems))


def _existing(name: str, dataset_dir: str) -> Path | None:
    return next((path for path in (Path(name), Path(dataset_dir, name)) if path.exists()), None)


def _unknown(name: str, info: Mapping[str, Any], file: Path, origin: str | None, key: str) -> Problem:
    folder = Path(name).parent
    files = [str(folder / entry) for entry in os.listdir(folder)] if folder.is_dir() else []
    shown = ", ".join(sorted(info)[:20]) + (" ..." if len(info) > 20 else "")
    hint = did_you_mean(name, [*info, *files]) or (f"It has: {shown}" if info else f"{file} is empty.")
    return Problem(f"{key} {name!r} is neither in {file} nor a file", origin, key, hint)


def _declared(name: str, info: Any, file: Path, problems: list[Problem]) -> DatasetEntry | None:
    fields, start = info[name], f"{file}:{info.lines[name]}"
    if not isinstance(fields, json_text.LocatedObject):
        problems.append(Problem(f"dataset {name!r} is no JSON object", start, name))
        return None
    before = len(problems)
    _check_keys(fields, (*SOURCES, *FIELDS), f"dataset {name!r}", file, problems)
    values: dict[str, Any] = {"formatting": "alpaca"}
    for key, annotation in FIELDS.items():
        if key in fields:
            setting = Setting(key, fields[key], f"{file}:{fields.lines[key]}")
            values[key], problem = convert(setting, annotation, {"ge": 1} if key == "num_samples" else {})
            problems += [problem] if problem else []
    for key, known in (("columns", COLUMNS), ("tags", TAGS)):
        inner = fields.get(key)
        if isinstance(inner, json_text.LocatedObject):
            if values["formatting"] in FORMATS:
                _check_keys(inner, known, f"the {key} of dataset {name!r}", file, problems)
            values[key] = {column: named for column, named in inner.items() if named is not None}
    source = next((key for key in SOURCES if key in fields), None)
    if source is None:
        hint = 'Add "file_name" or "hf_hub_url".'
        problems.append(Problem(f"dataset {name!r} does not say where its rows are", start, name, hint))
    if source is None or len(problems) > before:
        return None
    location = str(fields[source])
    if source == "file_name":
        path = file.parent / location
        location = str(path)
        if not path.exists():
            where = f"{file}:{fields.lines[source]}"
            message = f"the file of dataset {name!r} is not there: {path}"
            problems.append(Problem(message, where, name, near_file(path)))
            return None
    return DatasetEntry(name, location, SOURCES[source], origin=start, **values)


def _check_keys(
    found: json_text.LocatedObject, known: Sequence[str], where: str, file: Path, problems: list[Problem]
) -> None:
    for key, line, first in found.duplicates:
        problems.append(
            Problem(f"{key!r} of {where} is set twice; line {first} sets it too", f"{file}:{line}")
        )
    for key in found:
        if key not in known:
            hint = did_you_mean(key, known) or f"Known are: {', '.join(known)}"
            problems.append(
                Problem(f"unknown key {key!r} in {where}", f"{file}:{found.lines[key]}", key, hint)
            )


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The data files of a folder (not of those in it), sorted; `suffixes` are in lower case."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes
        and file.name not in NOT_DATA
        and not file.name.startswith(".")
        and file.is_file()
    )


def columns_of(entry: DatasetEntry) -> tuple[str, ...] | None:
    """Column names of the first row of a local file, or of the first file of a folder; None if unknown.

    Only the beginning of a file is read. Parquet and Arrow schemas are read by pyarrow in a child process,
    as it would import numpy here.
    """
    if entry.source != "file":
        return None
    path = entry.path
    if path.is_dir():
        files = files_in(path, _READERS)
        if not files:
            return None
        path = files[0]
    reader = _READERS.get(path.suffix.lower())
    try:
        return reader(path) if reader else None
    except (OSError, ValueError, csv.Error):
        return None  # what is wrong with the file, its dataset plugin says


def _unreadable(path: Path) -> str | None:
    """Why no row can come out of a file or folder, as far as a look at its names and beginning tells."""
    endings = ", ".join(_READERS)
    files = files_in(path, _READERS) if path.is_dir() else [path]
    if not files:
        return f"{path} holds no file that ends in one of {endings}"
    if files[0].suffix.lower() not in _READERS:
        return f"{path} does not end in one of {endings}"
    with files[0].open("rb") as file:
        return None if file.read(CHUNK).strip() else f"{files[0]} is empty"


def _json_columns(path: Path) -> tuple[str, ...] | None:
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(CHUNK)
        while True:
            start = text.find("{")
            try:
                row, _ = decoder.raw_decode(text, start if start >= 0 else 0)
                return tuple(row) if isinstance(row, dict) else None
            except json.JSONDecodeError:
                more = file.read(max(CHUNK, len(text)))
                if not more or len(text) > LARGEST_ROW:
                    return None
                text += more


def _csv_columns(path: Path) -> tuple[str, ...] | None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return tuple(next(csv.reader(file), ()))


def _arrow_columns(path: Path) -> tuple[str, ...] | None:
    command = [sys.executable, "-c", _SCHEMA, str(path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(child.stdout.splitlines()) or None


_READERS: Mapping[str, Callable[[Path], tuple[str, ...] | None]] = {
    ".json": _json_columns,
    ".jsonl": _json_columns,
    ".csv": _csv_columns,
    ".txt": lambda path: ("text",),
    ".parquet": _arrow_columns,
    ".arrow": _arrow_columns,
}

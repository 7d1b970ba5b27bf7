"""Reading small data in tests of data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tkernel.types.conversation import Conversation
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.datasets import alpaca, openai, sharegpt, text, trl

FORMATS: Mapping[str, Any] = {
    "alpaca": alpaca.DATASET,
    "sharegpt": sharegpt.DATASET,
    "openai": openai.DATASET,
    "text": text.DATASET,
    "trl": trl.DATASET,
}

ALPACA = [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."} for n in range(30)]


def write_json(file: Path, rows: Any, indent: int | None = 2) -> Path:
    """Write rows as a JSON array."""
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    return file


def write_jsonl(file: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def load(
    location: Any,
    form: str | None = "alpaca",
    *,
    rows: str | None = None,
    options: RowOptions | None = None,
    media_dir: Path | None = None,
    reader: str | None = None,
    **entry: Any,
) -> LoadedDataset:
    """Read `location`, or rows in memory, with the format `form` (`reader` where it is detected)."""
    in_memory = not isinstance(location, (str, Path))
    if in_memory:
        entry |= {"source": "memory", "data": location}
    described = DatasetEntry(
        entry.pop("name", "data"), "memory" if in_memory else str(location), formatting=form, **entry
    )
    report = DatasetReport(described.name)
    request = DatasetRequest(
        described,
        report,
        rows=rows or described.rows,
        options=options or RowOptions(),
        media_dir=str(media_dir) if media_dir else None,
    )
    dataset = FORMATS[reader or form or "alpaca"].load_dataset(request)
    return LoadedDataset(described, dataset, report)


def from_info(folder: Path, name: str, **overrides: Any) -> LoadedDataset:
    """Read `name` of the `dataset_info.json` in `folder`."""
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))[name]
    form = info.get("formatting", "alpaca")
    keys = {key: info[key] for key in ("ranking", "columns", "tags", "num_samples") if key in info}
    return load(folder / info["file_name"], form, name=name, media_dir=folder, **keys, **overrides)


def said(row: Mapping[str, Any], column: str = "messages") -> list[tuple[str, str]]:
    """Role and content of each message of a canonical row."""
    return [(message["role"], message["content"]) for message in row[column]]


def conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a canonical row."""
    return Conversation.from_row(row)

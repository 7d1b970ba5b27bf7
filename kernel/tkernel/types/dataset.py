"""Where rows come from, and what happened to them on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Source = Literal["file", "hf_hub", "ms_hub", "om_hub", "cloud", "script", "memory"]


@dataclass(frozen=True)
class DatasetEntry:
    """One name of `dataset:`, resolved: an entry of `dataset_info.json`, or a path.

    `columns` and `tags` are exactly what `dataset_info.json` declares; the format plugin knows
    what they mean and what holds when they are absent (None).
    """

    name: str
    location: str
    """A local file or folder, a hub id or a URL, depending on `source`."""
    source: Source = "file"
    formatting: str | None = None
    """The format as declared; None when it is to be detected from the columns."""
    ranking: bool = False
    columns: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    origin: str | None = None
    """Where it was declared, `dataset_info.json:12` or `train.yaml:7`."""
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each name of `columns` and `tags` was declared: `columns.prompt` -> `dataset_info.json:14`."""
    seen: tuple[str, ...] = ()
    """Columns of the first row, read where the format is to be detected."""
    data: Any = field(default=None, repr=False, compare=False)
    """Rows given in memory (`source == "memory"`)."""

    @property
    def rows(self) -> str:
        """The kind of rows that LLaMA-Factory's keys declare: `supervised`, `preference` or `feedback`."""
        if self.ranking:
            return "preference"
        return "feedback" if self.columns and self.columns.get("kto_tag") else "supervised"

    @property
    def path(self) -> Path:
        """`location` as a path."""
        return Path(self.location)


@dataclass(frozen=True)
class Rejection:
    """One row that was not used, and why. `line` counts from 1, `row` from 0."""

    file: str
    row: int
    line: int | None
    reason: str

    @property
    def place(self) -> str:
        """`file:line`, or `file row N` where files have no lines."""
        return f"{self.file}:{self.line}" if self.line is not None else f"{self.file} row {self.row}"

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class DatasetReport:
    """Counts of one dataset on its way from file to rows; mutable, filled by the dataset plugin.

    `rejected` holds the first positions for the message, `rejections` counts all of them by reason.
    """

    name: str
    read: int = 0
    kept: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    rejections: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What else the user should know, such as columns that nobody reads."""

    def reject(self, rejection: Rejection, keep_first: int = 20) -> None:
        """Count a rejection and remember it if it is one of the first."""
        self.rejections[rejection.reason] = self.rejections.get(rejection.reason, 0) + 1
        if len(self.rejected) < keep_first:
            self.rejected.append(rejection)


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset as a stage receives it: the entry, its canonical rows and what was counted.

    `rows` is a `datasets.Dataset` or `IterableDataset`; each row has, beside the canonical columns,
    `origin`: `{"file": str, "row": int, "line": int | None}`.
    """

    entry: DatasetEntry
    rows: Any
    report: DatasetReport

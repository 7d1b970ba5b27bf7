"""Raw rows of one entry into canonical rows, with a count of those that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, message_to_dict
from tkernel.types.dataset import DatasetEntry, Rejection
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.formats import BadRow, Format, MissingColumn, Row, Sample, frames_given, kind_of
from tkernel_plugins.data.frames import as_reference
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.raw import RawRow

SHOWN = 20
"""Bad rows that a message names; the others are counted."""

_PROMPT = ("prompt", "query", "history", "messages", "system", "tools", *MEDIA)
"""What a prompt is made of, under the names of `columns`."""

_OPTIONAL = ("query", "history", "system", "tools", "images", "videos", "audios")
_MOST_COLUMNS = 1000


class Conversion:
    """What `form` makes of the rows of an entry; counts go into `request.report`."""

    def __init__(self, request: DatasetRequest, form: Format) -> None:
        self.entry, self.report, self.form = request.entry, request.report, form
        self.options: RowOptions = request.options or RowOptions()
        self.columns, self.tags = form.columns_of(request.entry), form.tags_of(request.entry)
        self.kind = _kind(request, form)
        self.media_dirs = _media_dirs(request)
        self.seen: dict[str, None] = {}
        self.missing: dict[str, int] = {}

    def canonical(self, raw: RawRow) -> dict[str, Any]:
        """The canonical row of a raw one; raises `BadRow`."""
        if raw.problem is not None:
            reason, _, detail = raw.problem.partition(": ")
            raise BadRow(reason, detail)
        if not isinstance(raw.value, dict):
            raise BadRow("a row must be an object", f"it is {kind_of(raw.value)}")
        if len(self.seen) < _MOST_COLUMNS:
            self.seen.update(dict.fromkeys(map(str, raw.value)))
        row = Row(raw.value, self.columns, self.tags, self.kind)
        try:
            further = {"columns": self._further(raw.value)} if self.kind == "prompt" else {}
            sample = self.form.sample(row)
        except RecursionError:
            raise BadRow("nested too deeply") from None
        except ValueError as error:  # a number of more digits than Python makes a text of
            raise BadRow("a value that cannot be read", str(error)[:200]) from None
        if self.kind == "text":
            return canonical_row(sample, self.kind)
        media = {name: [self.resolve(item) for item in _references(row, sample, name)] for name in MEDIA}
        return canonical_row(sample, self.kind) | further | media

    def unread(self) -> list[str]:
        """Columns that were seen and are in no row: of prompts, reward functions get what nobody reads."""
        read = self.seen if self.kind == "prompt" else self.columns.values()
        return [name for name in self.seen if name not in read]

    def _further(self, raw: Mapping[str, Any]) -> str:
        """All columns of a row but those that make its prompt, as JSON; `prompt` where that is a plain text."""
        made = {self.columns.get(name) for name in _PROMPT}
        kept = {str(name): value for name, value in raw.items() if name not in made}
        prompt = raw.get(self.columns.get("prompt", "prompt"))
        if isinstance(prompt, str):
            kept["prompt"] = prompt
        return json.dumps(kept, default=str)

    def resolve(self, item: Any) -> dict[str, Any]:
        """A medium as a struct; its path is the file below `media_dir` or beside the data, if it is there."""
        if isinstance(item, (list, tuple)):
            return {"path": as_reference([self.resolve(frame)["path"] for frame in item]), "bytes": None}
        given = item if isinstance(item, dict) else {"bytes" if isinstance(item, bytes) else "path": item}
        path, content = given.get("path"), given.get("bytes")
        if isinstance(path, str) and content is None:
            paths = (os.path.join(folder, path) for folder in self.media_dirs)
            path = next(filter(os.path.isfile, paths), path)
        return {"path": path, "bytes": content}

    def reject(self, raw: RawRow, bad: BadRow) -> None:
        """Count a bad row, and remember where it was if it is one of the first."""
        if isinstance(bad, MissingColumn):
            self.missing[bad.column] = self.missing.get(bad.column, 0) + 1
        self.report.rejections[bad.reason] = self.report.rejections.get(bad.reason, 0) + 1
        if len(self.report.rejected) < SHOWN:
            self.report.rejected.append(Rejection(raw.file, raw.row, raw.line, str(bad)))

    def check(self) -> None:
        """Raise what is wrong with the dataset as a whole."""
        read, bad = self.report.read, sum(self.report.rejections.values())
        where = _where(self.entry)
        if read == 0:
            raise DataError(f"{where} has no rows")
        for column, count in self.missing.items():
            if count == read:
                raise self.wrong_columns(column)
        self.check_optional_columns()
        if bad and (self.options.on_bad_row == "error" or bad == read):
            first = "\n".join(f"  {rejection}" for rejection in self.report.rejected)
            more = (
                f"\n  and {bad - len(self.report.rejected):,} more" if bad > len(self.report.rejected) else ""
            )
            raise DataError(
                f"{bad:,} of {read:,} rows of {where} cannot be used\n{first}{more}",
                hint="Mend them, or leave them out with `on_bad_row: drop`."
                if bad < read
                else f"Is `{self.form.name}` the right format? It is set by `formatting` in dataset_info.json.",
            )

    def check_optional_columns(self) -> None:
        """A column that is declared and that no row has is a mistake, unless only some rows were read."""
        partial = self.options.max_samples is not None and self.entry.num_samples is None
        if self.entry.columns is None or partial:
            return
        for name in _OPTIONAL:
            if name in self.columns and self.columns[name] not in self.seen:
                raise DataError(
                    f"{self.entry.origin or _where(self.entry)}: dataset {self.entry.name!r} declares "
                    f"`{name}: {self.columns[name]}` and no row has that column; columns found: "
                    f"{', '.join(self.seen)}",
                    hint=did_you_mean(self.columns[name], self.seen),
                )

    def wrong_columns(self, column: str) -> DataError:
        """The one error for a file in which no row has a column that it must have."""
        found = list(self.seen)
        fitting = _formats_that_fit(found)
        declared = f", which {self.entry.origin} declares" if self.entry.columns and self.entry.origin else ""
        fits = f"These columns fit the format {' or '.join(fitting)}." if fitting else ""
        advice = (
            fits,
            did_you_mean(column, found),
            "`formatting` and `columns` of dataset_info.json set them.",
        )
        return DataError(
            f"{_where(self.entry)}: no row has the column `{column}`{declared}, which the format "
            f"`{self.form.name}` needs; columns found: {', '.join(found) or 'none'}",
            hint=" ".join(part for part in advice if part),
        )


def canonical_row(sample: Sample, kind: str) -> dict[str, Any]:
    """The columns of a sample in rows of `kind`, without media and origin; raises `BadRow`."""
    if kind == "text":
        if sample.text is None:
            raise BadRow("no text in this row")
        return {"text": sample.text}
    row: dict[str, Any] = {"tools": _tools_text(sample.prompt)}
    prompt = [message_to_dict(message) for message in sample.prompt.messages]
    replies = [message_to_dict(message) for message in sample.replies]
    if kind == "prompt":  # one reply is a reference; several are alternatives, and none of the conversation
        return row | {"messages": prompt + (replies if len(replies) == 1 else [])}
    wanted = 2 if kind == "preference" else 1
    if len(replies) != wanted:
        raise BadRow("no reply to learn" if not replies else "not one reply")
    if kind == "preference":
        return row | {"messages": prompt, "chosen": replies[:1], "rejected": replies[1:]}
    if kind == "feedback":
        return row | {"messages": prompt, "completion": replies, "label": sample.label}
    return row | {"messages": prompt + replies}


def _kind(request: DatasetRequest, form: Format) -> str:
    """The kind of rows to make, if the dataset can give what the stage asks for."""
    entry, wanted = request.entry, request.rows
    kinds = form.kinds(entry)
    if not kinds or wanted in kinds:
        return wanted
    how = {
        "supervised": "`ranking` and `kto_tag` must not be declared",
        "preference": "declare `ranking: true` and the columns `chosen` and `rejected`",
        "feedback": "declare the column `kto_tag`",
    }
    raise DataError(
        f"dataset {entry.name!r}{f' ({entry.origin})' if entry.origin else ''} has {kinds[0]} rows, and this "
        f"stage needs {wanted} rows",
        hint=f"For {wanted} rows: {how.get(wanted, 'take another dataset')} in dataset_info.json.",
    )


def _references(row: Row, sample: Sample, name: str) -> Sequence[Any]:
    """The media of a row: those that the conversion found, else those of the column."""
    found: Sequence[Any] = getattr(sample.prompt, name)
    value = row.get(name)
    if value is None or value == "" or value == []:
        return found
    if found:
        raise BadRow(f"{name} are given in the messages and in `{row.columns[name]}`")
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, list) and name == "videos":
            frames_given(item, f"`{row.columns[name]}`")
            continue
        if isinstance(item, dict) and not (item.get("bytes") or item.get("path")):
            raise BadRow(f"`{row.columns[name]}` holds an object without `bytes` and `path`")
        if isinstance(item, dict) and not (
            isinstance(item.get("bytes"), bytes | None) and isinstance(item.get("path"), str | None)
        ):
            raise BadRow(f"`{row.columns[name]}` holds `bytes` that are none, or a `path` that is no text")
        if not isinstance(item, (str, bytes, dict)):
            raise BadRow(f"`{row.columns[name]}` must hold paths, URLs or bytes", f"it holds {kind_of(item)}")
    return items


def _media_dirs(request: DatasetRequest) -> list[str]:
    if request.entry.source != "file":
        return []
    path = Path(request.entry.location)
    beside = path if path.is_dir() else path.parent
    return [*([request.media_dir] if request.media_dir else []), str(beside)]


def _tools_text(conversation: Conversation) -> str | None:
    if not conversation.tools:
        return "[]" if conversation.empty_tools else None
    return json.dumps(list(conversation.tools), ensure_ascii=False)


def _where(entry: DatasetEntry) -> str:
    return f"dataset {entry.name!r}" if entry.source == "memory" else entry.location


def _formats_that_fit(columns: Sequence[str]) -> list[str]:
    """Formats that registered some of `columns` as a further name; the plain name of each."""
    registered = list(entry_points(group="tkernel.dataset"))
    targets = {point.value for point in registered if {*point.name.split("+")} <= {*columns}}
    modules = {target: target.partition(":")[0].rpartition(".")[2] for target in targets}
    return sorted({modules[point.value] for point in registered if point.name == modules.get(point.value)})

"""Files of rows: which ones belong to a dataset, and how each kind is read."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tkernel.config.datasets import files_in
from tkernel.errors import DataError
from tkernel_plugins.data.json_reader import read_json, read_json_lines
from tkernel_plugins.data.raw import RawRow, numbered_lines


def read_csv(path: Path) -> Iterator[RawRow]:
    """Rows of a comma-separated file with a header; every value is text."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_decoded(path), strict=True)
    header: list[str] | None = None
    row = 0
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV: {error}", hint="Mend the file.") from None
        if not fields:
            continue
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                raise DataError(f"{path}:{line}: two columns of the header have the same name: {header}")
            continue
        problem = None
        if len(fields) != len(header):
            problem = f"not valid CSV: {len(fields)} fields where the header has {len(header)}"
        yield RawRow(
            str(path), row, line, None if problem else dict(zip(header, fields, strict=True)), problem
        )
        row += 1


def _decoded(path: Path) -> Iterator[str]:
    for number, text, problem in numbered_lines(path):
        if problem:
            raise DataError(f"{path}:{number}: {problem}", hint="Save the file as UTF-8.")
        yield text


def read_text(path: Path) -> Iterator[RawRow]:
    """One row `{"text": line}` for each line that is not blank."""
    row = 0
    for number, text, problem in numbered_lines(path):
        text = text.rstrip("\r\n")
        if problem is None and not text.strip():
            continue
        yield RawRow(str(path), row, number, None if problem else {"text": text}, problem)
        row += 1


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _rows_of_batches(path, file.iter_batches(batch_size=1000))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


def read_arrow(path: Path) -> Iterator[RawRow]:
    """Rows of an Arrow file, in the stream format (what `datasets` writes) or the file format."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                batches: Any = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            yield from _rows_of_batches(path, batches)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Arrow file: {error}") from None


def _rows_of_batches(path: Path, batches: Any) -> Iterator[RawRow]:
    row = 0
    for batch in batches:
        try:
            values = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} rows {row} to {row + len(batch) - 1}: text is not UTF-8: {error}"
            ) from None
        for value in values:
            yield RawRow(str(path), row, None, value)
            row += 1


READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": read_text,
}
"""Suffix of a file -> its reader."""


def read_files(location: str) -> Iterator[RawRow]:
    """Rows of a file, or of all data files of a folder in the order of their names.

    Raises:
        DataError: nothing there, no suffix that is known, or several kinds of files in one folder.
    """
    for path in data_files(Path(location)):
        try:
            yield from READERS[path.suffix.lower()](path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def data_files(path: Path) -> list[Path]:
    """The files that `path` stands for."""
    kinds = ", ".join(suffix[1:] for suffix in READERS)
    if path.is_dir():
        files = files_in(path, READERS)
        if not files:
            raise DataError(f"{path}: no data files in this folder; kinds that are read: {kinds}")
        suffixes = sorted({file.suffix.lower() for file in files})
        if len(suffixes) > 1:
            raise DataError(
                f"{path}: a folder of one kind of file was expected, and it has {', '.join(suffixes)}",
                hint=f"Name one file, such as {files[0]}.",
            )
        return files
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint=f"`ls {path.parent}` shows what is there.")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: files of this kind are not read; kinds that are: {kinds}")
    return [path]

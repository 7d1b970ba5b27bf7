"""Files of rows: which ones belong to a dataset, and how each kind is read."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tkernel.errors import DataError
from tkernel_plugins.data.compressed import DECOMPRESSORS, suffixes
from tkernel_plugins.data.json_reader import read_json, read_json_lines
from tkernel_plugins.data.raw import DataFile, File, RawRow, numbered_lines

NOT_DATA = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")
"""What LLaMA-Factory and `datasets.save_to_disk` put beside the data."""


def read_csv(path: File) -> Iterator[RawRow]:
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


def _decoded(path: File) -> Iterator[str]:
    for number, text, problem in numbered_lines(path):
        if problem:
            raise DataError(f"{path}:{number}: {problem}", hint="Save the file as UTF-8.")
        yield text


def read_text(path: File) -> Iterator[RawRow]:
    """One row `{"text": line}` for each line that is not blank."""
    row = 0
    for number, text, problem in numbered_lines(path):
        text = text.rstrip("\r\n")
        if problem is None and not text.strip():
            continue
        yield RawRow(str(path), row, number, None if problem else {"text": text}, problem)
        row += 1


def read_parquet(path: File) -> Iterator[RawRow]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _random_access(path) as source, pq.ParquetFile(source) as file:
            yield from _rows_of_batches(path, file.iter_batches(batch_size=1000))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}", hint=_MEND) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", hint=_MEND) from None


def read_arrow(path: File) -> Iterator[RawRow]:
    """Rows of an Arrow file, in the stream format (what `datasets` writes) or the file format."""
    import pyarrow as pa

    try:
        with _random_access(path) as opened:
            source = pa.memory_map(str(path)) if isinstance(path, Path) else pa.PythonFile(opened)
            with source:
                try:
                    batches: Any = pa.ipc.open_stream(source)
                except pa.ArrowInvalid:
                    file = pa.ipc.open_file(source)
                    batches = (file.get_batch(number) for number in range(file.num_record_batches))
                yield from _rows_of_batches(path, batches)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Arrow file: {error}", hint=_MEND) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", hint=_MEND) from None


_MEND = "Download or write the file again."


@contextmanager
def _random_access(file: File) -> Iterator[Any]:
    """A file that can be read from any place; one that comes as a stream is copied to the disk."""
    if isinstance(file, Path):
        yield file
        return
    with file.open() as stream:
        try:
            stream.seek(0, 2)
            stream.seek(0)
        except OSError:
            with tempfile.TemporaryFile() as copy, file.open() as again:
                shutil.copyfileobj(again, copy)
                copy.seek(0)
                yield copy
        else:
            yield stream


def _rows_of_batches(path: File, batches: Any) -> Iterator[RawRow]:
    import pyarrow as pa

    row = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise DataError(f"{path}: two columns have the same name: {', '.join(sorted(names))}")
        try:
            values = batch.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            rows = f"rows {row} to {row + len(batch) - 1}"
            what = (
                "text is not UTF-8" if isinstance(error, UnicodeDecodeError) else "a value that Python lacks"
            )
            raise DataError(f"{path} {rows}: {what}: {error}") from None
        for value in values:
            yield RawRow(str(path), row, None, value)
            row += 1


READERS: Mapping[str, Callable[[File], Iterator[RawRow]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": read_text,
}
"""Suffix of a file -> its reader."""

KINDS = f"{', '.join(suffix[1:] for suffix in READERS)}, each also as {', '.join(DECOMPRESSORS)}"
"""What messages say can be read."""


def read_files(location: str) -> Iterator[RawRow]:
    """Rows of a local file, or of all data files of a folder in the order of their names.

    Raises:
        DataError: nothing there, no suffix that is known, or several kinds of files in one folder.
    """
    for file in data_files(Path(location)):
        yield from read_file(file)


def read_file(file: File) -> Iterator[RawRow]:
    """Rows of one file, by its suffix."""
    row = -1
    try:
        for raw in READERS[suffixes(str(file))[0] if isinstance(file, Path) else file.suffix](file):
            row = raw.row
            yield raw
    except OSError as error:
        after = f" after row {row}" if row >= 0 else ""
        raise DataError(f"{file}: cannot be read{after}: {error.strerror or error}", hint=_MEND) from None


def local_file(path: Path) -> File:
    """A file on this machine; a compressed one is decompressed while it is read."""
    suffix, packed = suffixes(path.name)
    return path if not packed else DataFile(str(path), suffix, lambda: DECOMPRESSORS[packed](path))


def data_files(path: Path) -> list[File]:
    """The files that `path` stands for."""
    try:
        if path.is_dir():
            return [local_file(file) for file in one_kind(str(path), _inside(path))]
    except OSError as error:
        raise DataError(f"{path}: the folder cannot be read: {error.strerror}") from None
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint=f"`ls {path.parent}` shows what is there.")
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder")
    if suffixes(path.name)[0] not in READERS:
        raise DataError(f"{path}: files of this kind are not read; kinds that are: {KINDS}")
    return [local_file(path)]


def is_data(name: str) -> bool:
    """Whether a file in a folder belongs to its data, by its name."""
    return suffixes(name)[0] in READERS and name not in NOT_DATA and not name.startswith(".")


def one_kind(folder: str, files: list[Any]) -> list[Any]:
    """The data files of a folder, which must be there and of one kind."""
    if not files:
        raise DataError(f"{folder}: no data files in this folder; kinds that are read: {KINDS}")
    found = sorted({suffixes(Path(file).name)[0] for file in files})
    if len(found) > 1:
        raise DataError(
            f"{folder}: a folder of one kind of file was expected, and it has {', '.join(found)}",
            hint=f"Name one file, such as {files[0]}.",
        )
    return files


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_data(file.name) and file.is_file())

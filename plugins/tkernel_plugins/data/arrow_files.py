"""Arrow files: written batch by batch, mapped when they are read, known by their content."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel_plugins.data.mapped import release

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_CHUNK = 1 << 20
_ROWS = 10_000


class ArrowWriter:
    """Writes tables of one schema after each other, in the stream format that `datasets` reads too.

    The schema is that of the first table. `close` returns when the bytes are on the disk.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._file = path.open("wb")
        self._stream: Any = None

    def write(self, table: pa.Table) -> None:
        """Append the rows of `table` as one batch: many small ones would cost a reader memory."""
        import pyarrow as pa

        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._file, table.schema)
        self._stream.write_table(table.combine_chunks())
        self.rows += table.num_rows

    def close(self) -> None:
        """End the stream and the file."""
        if self._stream is not None:
            self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def mapped(path: Path, columns: Sequence[str] | None = None) -> datasets.Dataset:
    """The rows of an Arrow stream file with all or some of its columns; its pages are read when they are looked at."""
    import datasets

    table = datasets.table.MemoryMappedTable.from_file(str(path))
    if columns is not None:
        table = table.select(list(columns))
    # The fingerprint is no digest: nothing that is derived from these rows is found in an old cache.
    return datasets.Dataset(table, fingerprint=uuid.uuid4().hex[:16])


def schema_of(path: Path) -> pa.Schema:
    """The columns of an Arrow stream file."""
    import pyarrow as pa

    with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
        return stream.schema


def digest_file(path: Path) -> str:
    """The content of a file in 32 hexadecimal digits, a few GB a second."""
    from xxhash import xxh3_128

    digest, chunk = xxh3_128(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return str(digest.hexdigest())


def digest_files(paths: Iterable[Path]) -> str:
    """`xxh3:...` over the names and the contents of files, in their order.

    Not the digest of the lock, which has to withstand somebody who looks for a second file with the same one:
    here it decides about time alone, as whoever may change the data may change the cache too, and SHA-256
    would be a fifth of what a hit costs.
    """
    from xxhash import xxh3_128

    total = xxh3_128()
    for path in paths:
        total.update(f"{path.name}\0{digest_file(path)}\n".encode("utf-8", "surrogateescape"))
    return f"xxh3:{total.hexdigest()}"


def digest_rows(rows: datasets.Dataset) -> str:
    """The content of a dataset, schema and order included, as it lies in Arrow's memory."""
    import pyarrow as pa

    sink = _Digest()
    stream: Any = None
    files = [item["filename"] for item in rows.cache_files]
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS):
        if stream is None:
            stream = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batch.schema)
        stream.write_table(batch.combine_chunks())
        release(files)
    if stream is not None:
        stream.close()
    return str(sink.digest.hexdigest())


class _Digest:
    """A file that remembers only the digest of what was written to it."""

    closed = False

    def __init__(self) -> None:
        from xxhash import xxh3_128

        self.digest = xxh3_128()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

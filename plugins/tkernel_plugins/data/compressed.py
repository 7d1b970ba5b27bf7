"""Compressed files of rows, decompressed while they are read."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from tkernel.errors import DataError

Source = Path | BinaryIO
"""A path, or the compressed bytes as a stream."""


def _zstd(source: Source) -> BinaryIO:
    try:
        import zstandard
    except ModuleNotFoundError:
        message = f"{getattr(source, 'name', 'a file')} is compressed, and zstandard is not installed"
        raise DataError(message, hint='Run: pip install "tkernel[zstd]"') from None
    stream = source.open("rb") if isinstance(source, Path) else source
    return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))


DECOMPRESSORS: Mapping[str, Callable[[Source], BinaryIO]] = {
    ".gz": cast(Callable[[Source], BinaryIO], gzip.open),
    ".bz2": cast(Callable[[Source], BinaryIO], bz2.open),
    ".xz": cast(Callable[[Source], BinaryIO], lzma.open),
    ".zst": _zstd,
}
"""Last suffix of a compressed file -> its bytes into those of the rows."""


def suffixes(name: str) -> tuple[str, str]:
    """The suffix of the rows and that of the compression (`""` for none): `rows.jsonl.gz` -> `.jsonl`, `.gz`."""
    path = PurePath(name.lower())
    if path.suffix in DECOMPRESSORS:
        return PurePath(path.stem).suffix, path.suffix
    return path.suffix, ""

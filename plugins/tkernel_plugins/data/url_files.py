"""Files of rows at a URL, through fsspec: http, s3, gs, hf, memory and whatever else is installed."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tkernel.errors import DataError
from tkernel_plugins.data.compressed import DECOMPRESSORS, suffixes
from tkernel_plugins.data.files import KINDS, READERS, is_data, one_kind
from tkernel_plugins.data.raw import DataFile

EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> the extra of this distribution that installs its filesystem."""

_UNIQUE = ("ETag", "etag", "Content-MD5", "md5Hash", "VersionId", "generation", "oid", "blob_id", "xet_hash")
"""What filesystems call a key of a file's content in `info`."""


def url_files(url: str) -> list[DataFile]:
    """The file at `url`, or the data files of a folder there, sorted. Nothing is read of them yet.

    Credentials are those that the filesystem finds itself (`AWS_ACCESS_KEY_ID`, `HF_TOKEN`, fsspec's
    own configuration files).

    Raises:
        DataError: no filesystem for this protocol, nothing there, no kind of file that is read, or
            several kinds in one folder.
    """
    filesystem, path = _filesystem(url)
    suffix = suffixes(_name(url))[0]
    if suffix in READERS:
        return [_data_file(filesystem, path, url, _name(url))]
    try:
        # Over HTTP a folder is a page with links, and asking whether there is one fetches the file.
        listed = [] if urlsplit(url).scheme in ("http", "https") else filesystem.ls(path, detail=False)
    except Exception as error:
        raise _unreachable(url, error) from None
    names = sorted(str(name).rstrip("/") for name in listed)
    if not names or names == [path.rstrip("/")]:
        raise DataError(
            f"{url}: its name says nothing that is read; kinds that are: {KINDS}",
            hint="The URL must end like a file's name; `?...` after it is fine.",
        )
    inside = one_kind(url, [name for name in names if is_data(PurePosixPath(name).name)])
    return [_data_file(filesystem, name, filesystem.unstrip_protocol(name), name) for name in inside]


def content_of(url: str) -> str | None:
    """A key of the content at `url`, from what the server says of it; None if it says nothing unique."""
    filesystem, _ = _filesystem(url)
    total = hashlib.sha256()
    for file in url_files(url):
        try:
            info = filesystem.info(filesystem._strip_protocol(file.name))
        except Exception as error:
            raise _unreachable(file.name, error) from None
        found = {name: str(info[name]) for name in _UNIQUE if info.get(name)}
        if not found:
            return None
        total.update(f"{file.name}\0{sorted(found.items())}\n".encode())
    return f"url:{total.hexdigest()}"


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0].partition("::")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        wanted = f"tkernel[{EXTRAS[protocol]}]" if protocol in EXTRAS else "the package that it names"
        run = f'Run: pip install "{wanted}"' if protocol in EXTRAS else f"Install {wanted}."
        raise DataError(f"{url}: nothing installed reads {protocol}://: {error}", hint=run) from None
    except Exception as error:
        raise DataError(
            f"{url} cannot be opened: {error}",
            hint="`file_name` and `cloud_file_name` take a path, or a URL of a protocol that fsspec knows.",
        ) from None
    return filesystem, str(path)


def _data_file(filesystem: Any, path: str, url: str, name: str) -> DataFile:
    suffix, packed = suffixes(name)

    def opener() -> BinaryIO:
        # The memory store hands out one file object, with one position, to all who open it.
        shared = filesystem.protocol == "memory"
        stream: BinaryIO = io.BytesIO(filesystem.cat_file(path)) if shared else filesystem.open(path, "rb")
        return DECOMPRESSORS[packed](stream) if packed else stream

    return DataFile(url, suffix, opener)


def _name(url: str) -> str:
    """The part of a URL (of a chain, the last with a path) that names the file."""
    paths: Iterator[str] = (
        urlsplit(part).path or urlsplit(part).netloc for part in reversed(url.split("::"))
    )
    return next((PurePosixPath(path).name for path in paths if PurePosixPath(path).name), "")


def _unreachable(url: str, error: Exception) -> DataError:
    text = re.sub(r"\s+", " ", str(error)) or type(error).__name__
    what = "there is nothing" if isinstance(error, FileNotFoundError) else f"it cannot be reached: {text}"
    return DataError(f"{url}: {what}", hint="Check the address, the network and the credentials.")

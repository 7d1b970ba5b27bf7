"""Giving back the memory of mapped Arrow files that were read through."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

_DONT_NEED = 4


def release(files: Iterable[str | PathLike[str]]) -> None:
    """Let go of the pages that reading mapped `files` has brought into memory; they are read again on use.

    Pages of a mapped file count as memory of the process until the system wants them for something
    else. Where a pass over a large dataset calls this now and then, the process stays as small as its
    buffers. Only mappings that cannot be written to are touched; does nothing where there is no `/proc`.

    Args:
        files: as in `[item["filename"] for item in dataset.cache_files]`.
    """
    if sys.platform != "linux":
        return
    wanted = {str(Path(file).resolve()) for file in files}
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if name and name[0] in wanted and "w" not in permissions:
            start, end = (int(address, 16) for address in addresses.split("-"))
            madvise(start, end - start, _DONT_NEED)

"""Log-probabilities of a reference on disk, found by what they were computed from.

Below the cache folder is `reference/IDENTITY`, where IDENTITY is a digest of the model's weights and of how it
was run. Its files are records of a key (16 bytes) and the numbers (float64); each process appends to a file
of its own, and what a killed one has written is kept up to its last whole record.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tkernel.errors import TkError
from tkernel_plugins.data.cache import cache_folder

KEY = 16
"""Bytes of a key, which is given as hexadecimal digits."""


class LogpsStore:
    """`numbers` floats for each key, in a folder."""

    def __init__(self, folder: Path, numbers: int) -> None:
        self.folder, self.numbers = folder, numbers
        self.own = folder / f"{uuid.uuid4().hex}.bin"

    @classmethod
    def of(cls, identity: str, numbers: int) -> LogpsStore:
        """The store of one reference, in the cache folder."""
        return cls(cache_folder() / "reference" / identity, numbers)

    def read(self) -> dict[str, tuple[float, ...]]:
        """All that is there."""
        record = np.dtype([("key", np.uint8, KEY), ("values", np.float64, self.numbers)])
        found: dict[str, tuple[float, ...]] = {}
        for path in sorted(self.folder.glob("*.bin")):
            content = path.read_bytes()
            whole = np.frombuffer(content[: len(content) // record.itemsize * record.itemsize], record)
            for key, values in zip(whole["key"], whole["values"].reshape(-1, self.numbers), strict=True):
                found[key.tobytes().hex()] = tuple(values.tolist())
        return found

    def append(self, values: Mapping[str, Iterable[float]]) -> None:
        """Write `values` to the disk.

        Raises:
            TkError: the folder cannot be written, or the disk is full.
        """
        content = b"".join(
            bytes.fromhex(key) + np.asarray(tuple(own), np.float64).tobytes() for key, own in values.items()
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.own.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise TkError(
                f"the reference's log-probabilities cannot be written to {self.folder}: {error.strerror}",
                hint="Set TK_CACHE_DIR to a folder with room, or leave `precompute_ref_log_probs` out.",
            ) from error


def weights_digest(module: torch.nn.Module, *, frozen_only: bool = False, about: Iterable[Any] = ()) -> str:
    """A digest of a module's parameters and buffers, and of `about`.

    Args:
        frozen_only: leave out what is trained: the adapter, where the module without it is meant.
    """
    found = hashlib.blake2b(digest_size=16)
    for value in about:
        found.update(repr(value).encode() + b"\0")
    tensors = [(n, p) for n, p in module.named_parameters() if not (frozen_only and p.requires_grad)]
    for name, tensor in [*tensors, *module.named_buffers()]:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()

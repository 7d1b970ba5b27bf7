"""Reading a GGUF file (versions 2 and 3): metadata and tensors. Not a plugin; a library of this folder.

The package `gguf` parses every string of a vocabulary into numpy views, 2.5 CPU seconds for SmolLM2; this
reader takes 0.1. Dequantising is left to that package.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import TkError

if TYPE_CHECKING:
    import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies in the file. `shape` is in torch's order, rows first."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; weights are read and dequantised one at a time."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, `llama`, `qwen2`, ..."""
        return str(self.metadata["general.architecture"])

    def load(self, tensor: GgufTensor) -> np.ndarray:
        """The values of a tensor in float32 (or as stored, for integers), of shape `tensor.shape`."""
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(tensor.ggml_type)
        block, size = GGML_QUANT_SIZES[kind]
        count = int(np.prod(tensor.shape))
        raw = np.memmap(self.path, np.uint8, "r", tensor.offset, (count // block * size,))
        rows = raw.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * size)
        return np.array(dequantize(rows, kind)).reshape(tensor.shape)


def read_gguf(path: str | Path) -> GgufFile:
    """Read the header of a GGUF file.

    Raises:
        TkError: not a GGUF file, a version that is not 2 or 3, or one that is cut off.
    """
    path = Path(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise TkError(f"{path} is not a GGUF file: it does not start with `GGUF`")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _read(path, _Cursor(data, 4))
            except (struct.error, IndexError, UnicodeDecodeError) as error:
                raise TkError(
                    f"{path} is cut off or damaged: its header ends early ({error})",
                    hint="Copy or download the file again.",
                ) from error


class _Cursor:
    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize(code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise IndexError("a string reaches beyond the end of the file")
        return self.data[start : self.position].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS:
            values = struct.unpack_from(f"<{count}{_SCALARS[item]}", self.data, self.position)
            self.position += struct.calcsize(f"<{count}{_SCALARS[item]}")
            return list(values)
        return [self.value(item) for _ in range(count)]


def _read(path: Path, cursor: _Cursor) -> GgufFile:
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise TkError(
            f"{path} is GGUF version {version}; versions 2 and 3 can be read",
            hint="Convert it again with a current llama.cpp.",
        )
    tensor_count, pair_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = []
    for _ in range(tensor_count):
        name = cursor.string()
        sizes = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
        entries.append((name, tuple(reversed(sizes)), cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.position // alignment) * alignment
    tensors = tuple(GgufTensor(name, shape, kind, start + offset) for name, shape, kind, offset in entries)
    return GgufFile(path, metadata, tensors)

"""A GGUF file with its vocabulary, and its weights one at a time. Not a plugin; a library of this folder.

The package `gguf` parses every string of a vocabulary into numpy views, 2.5 CPU seconds for SmolLM2; the
kernel's reader takes 0.1. Dequantising is left to that package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel_plugins.sources.gguf_header import GgufTensor, read_gguf_header

if TYPE_CHECKING:
    import numpy as np


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
    """Read the header of a GGUF file, its vocabulary included.

    Raises:
        TkError: not a GGUF file, a version that is not 2 or 3, or one that is cut off.
    """
    header = read_gguf_header(Path(path), longest_array=math.inf)
    return GgufFile(Path(path), header.metadata, tuple(header.tensors.values()))

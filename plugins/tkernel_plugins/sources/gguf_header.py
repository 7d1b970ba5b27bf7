"""The header of a GGUF file, read with the standard library.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel.errors import TkError

LONGEST_ARRAY = 64
"""What describes a model is shorter; a vocabulary and its scores are longer."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Where GGUF's name of an architecture is not transformers' model_type.
_MODEL_TYPES = {
    "chatglm": "glm",
    "command-r": "cohere",
    "deepseek2": "deepseek_v2",
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "gptneox": "gpt_neox",
    "minimax-m2": "minimax_m2",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}

_CONFIG_KEYS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}

_TOKENIZER_KEYS = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies in the file. `shape` is in torch's order, rows first."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata, the lengths of all its arrays, and the tensors by name."""

    metadata: Mapping[str, Any]
    lengths: Mapping[str, int]
    tensors: Mapping[str, GgufTensor]

    def config(self) -> dict[str, Any]:
        """The keys of transformers' `config.json`, as far as the header has them."""
        architecture = str(self.metadata.get("general.architecture", ""))
        config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
        names = {f"{architecture}.{key}": name for key, name in _CONFIG_KEYS.items()} | _TOKENIZER_KEYS
        config |= {name: self.metadata[key] for key, name in names.items() if key in self.metadata}
        if "token_embd.weight" in self.tensors:
            config["vocab_size"] = self.tensors["token_embd.weight"].shape[0]
        elif "tokenizer.ggml.tokens" in self.lengths:
            config["vocab_size"] = self.lengths["tokenizer.ggml.tokens"]
        if self.tensors:
            config["tie_word_embeddings"] = "output.weight" not in self.tensors
        return config


def read_gguf_header(path: Path, longest_array: float = LONGEST_ARRAY) -> GgufHeader:
    """Metadata without arrays longer than `longest_array`, and tensors; the weights are not read.

    Raises:
        TkError: it is no GGUF file, of a version or byte order that is not supported, or cut off.
    """
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise TkError(f"{path} is not a GGUF file: it starts with {magic!r}.", hint="Download it again.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _read(path, _Cursor(data, longest_array))
            except (struct.error, KeyError, OverflowError) as error:
                hint = "Download it again."
                raise TkError(f"{path} is damaged: its header ends early.", hint=hint) from error


class _Cursor:
    """A position in the file; mapped, a vocabulary of 300,000 strings is passed over in no time."""

    def __init__(self, data: mmap.mmap, longest_array: float) -> None:
        self.data, self.longest_array, self.position = data, longest_array, 4

    def scalar(self, code: str) -> Any:
        return self.scalars(code, 1)[0]

    def scalars(self, code: str, count: int) -> list[Any]:
        values = struct.unpack_from(f"<{count}{code}", self.data, self.position)
        self.position += struct.calcsize(f"<{count}{code}")
        return list(values)

    def string(self) -> str:
        length = self.scalar("Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise struct.error("a string reaches beyond the end of the file")
        return self.data[start : self.position].decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        lengths, position = struct.Struct("<Q"), self.position
        for _ in range(count):
            position += 8 + lengths.unpack_from(self.data, position)[0]
        self.position = position

    def array(self) -> tuple[list[Any], int]:
        """The values, none if they are too many to be kept, and their number."""
        kind, length = self.scalar("I"), self.scalar("Q")
        kept = length <= self.longest_array
        if kind in _SCALARS and kept:
            return self.scalars(_SCALARS[kind], length), length
        if kind in _SCALARS:
            self.position += length * struct.calcsize("<" + _SCALARS[kind])
        elif kind == _STRING and not kept:
            self.skip_strings(length)
        else:
            values = [self.value(kind) for _ in range(length)]
            return values if kept else [], length
        return [], length

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        return self.array()[0] if kind == _ARRAY else self.scalar(_SCALARS[kind])


def _read(path: Path, cursor: _Cursor) -> GgufHeader:
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise TkError(f"{path} is GGUF of version {version}; versions 2 and 3 (little-endian) are read.")
    tensor_count, key_count = cursor.scalars("Q", 2)
    metadata: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for _ in range(key_count):
        key, kind = cursor.string(), cursor.scalar("I")
        if kind == _ARRAY:
            values, lengths[key] = cursor.array()
            if lengths[key] <= cursor.longest_array:
                metadata[key] = values
        else:
            metadata[key] = cursor.value(kind)
    found = []
    for _ in range(tensor_count):
        name = cursor.string()
        sizes = cursor.scalars("Q", cursor.scalar("I"))
        found.append((name, tuple(reversed(sizes)), cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.position // alignment) * alignment
    tensors = {name: GgufTensor(name, shape, kind, start + offset) for name, shape, kind, offset in found}
    return GgufHeader(metadata, lengths, tensors)

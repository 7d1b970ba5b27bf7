"""The header of a GGUF file, read with the standard library.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tkernel.errors import TkError

LONGEST_ARRAY = 64
"""Longer arrays (the vocabulary, its scores) are passed over; their length is kept."""

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
class GgufHeader:
    """Metadata without long arrays, the lengths of all arrays, and the shape of each tensor.

    A shape has the fastest dimension first, as the file has it: embeddings are `(hidden, vocabulary)`.
    """

    metadata: Mapping[str, Any]
    lengths: Mapping[str, int]
    tensors: Mapping[str, tuple[int, ...]]

    def config(self) -> dict[str, Any]:
        """The keys of transformers' `config.json`, as far as the header has them."""
        architecture = str(self.metadata.get("general.architecture", ""))
        config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
        names = {f"{architecture}.{key}": name for key, name in _CONFIG_KEYS.items()} | _TOKENIZER_KEYS
        config |= {name: self.metadata[key] for key, name in names.items() if key in self.metadata}
        if "token_embd.weight" in self.tensors:
            config["vocab_size"] = self.tensors["token_embd.weight"][-1]
        elif "tokenizer.ggml.tokens" in self.lengths:
            config["vocab_size"] = self.lengths["tokenizer.ggml.tokens"]
        if self.tensors:
            config["tie_word_embeddings"] = "output.weight" not in self.tensors
        return config


def read_gguf_header(path: Path) -> GgufHeader:
    """Metadata and tensor shapes of a GGUF file; the weights are not read.

    Raises:
        TkError: it is no GGUF file, of a version or byte order that is not supported, or cut off.
    """
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise TkError(f"{path} is not a GGUF file: it starts with {magic!r}.", hint="Download it again.")
        try:
            version = _scalar(stream, "I")
            if version not in (2, 3):
                raise TkError(
                    f"{path} is GGUF of version {version}; versions 2 and 3 (little-endian) are read."
                )
            tensor_count, key_count = _scalar(stream, "Q"), _scalar(stream, "Q")
            metadata: dict[str, Any] = {}
            lengths: dict[str, int] = {}
            for _ in range(key_count):
                key, kind = _string(stream), _scalar(stream, "I")
                value, length = _value(stream, kind)
                if length is not None:
                    lengths[key] = length
                if length is None or length <= LONGEST_ARRAY:
                    metadata[key] = value
            tensors = {}
            for _ in range(tensor_count):
                name, dimensions = _string(stream), _scalar(stream, "I")
                tensors[name] = tuple(_scalar(stream, "Q") for _ in range(dimensions))
                stream.seek(12, 1)  # type and offset of its data
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise TkError(f"{path} is damaged: its header ends early.", hint="Download it again.") from error
    return GgufHeader(metadata, lengths, tensors)


def _scalar(stream: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, stream.read(struct.calcsize("<" + code)))[0]


def _string(stream: BinaryIO) -> str:
    length = _scalar(stream, "Q")
    if length > 2**26:
        raise struct.error("a string of more than 64 MiB")
    return stream.read(length).decode("utf-8", errors="replace")


def _skip_strings(stream: BinaryIO, count: int) -> None:
    """A vocabulary has up to 300,000 strings: mapped, they take a tenth of the time of reading."""
    lengths = struct.Struct("<Q")
    position = stream.tell()
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for _ in range(count):
            position += 8 + lengths.unpack_from(view, position)[0]
    stream.seek(position)


def _value(stream: BinaryIO, kind: int) -> tuple[Any, int | None]:
    """A value, and the length if it is an array; the values of a long array are passed over."""
    if kind == _STRING:
        return _string(stream), None
    if kind != _ARRAY:
        return _scalar(stream, _SCALARS[kind]), None
    item, length = _scalar(stream, "I"), _scalar(stream, "Q")
    if length <= LONGEST_ARRAY:
        return [_value(stream, item)[0] for _ in range(length)], length
    if item == _STRING:
        _skip_strings(stream, length)
    elif item == _ARRAY:
        for _ in range(length):
            _value(stream, item)
    else:
        stream.seek(length * struct.calcsize("<" + _SCALARS[item]), 1)
    return None, length

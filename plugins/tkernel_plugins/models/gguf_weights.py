"""Config and weights of a GGUF file, dequantised. Not a plugin; a library of this folder.

For the architectures in `DIRECT` the tensors only need other names (and llama's query and key rows their
order back), which is done here in a fifth of the time that transformers' conversion takes; every other
architecture is left to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tkernel.errors import TkError
from tkernel_plugins.models.gguf_file import GgufFile

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DIRECT = ("llama", "qwen2", "qwen3")
"""llama.cpp's names of the architectures that are read here (dense models only)."""

_CONFIG: Mapping[str, str] = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
}
_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FREQUENCIES = "rope_freqs.weight"


def is_direct(file: GgufFile) -> bool:
    """Whether `gguf_config` and `gguf_state_dict` can read this file."""
    experts = file.metadata.get(f"{file.architecture}.expert_count", 0)
    return file.architecture in DIRECT and not experts


def gguf_config(file: GgufFile, model_type: str) -> Any:
    """The transformers config of a file for which `is_direct` holds."""
    from transformers import AutoConfig

    meta, prefix = file.metadata, file.architecture
    values = {ours: meta[f"{prefix}.{key}"] for key, ours in _CONFIG.items() if f"{prefix}.{key}" in meta}
    names = {tensor.name: tensor for tensor in file.tensors}
    values["vocab_size"] = names["token_embd.weight"].shape[0]
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    values["tie_word_embeddings"] = "output.weight" not in names
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        values[f"{name}_token_id"] = meta.get(f"tokenizer.ggml.{key}_token_id")
    if model_type in ("llama", "mistral"):
        values["attention_bias"] = "blk.0.attn_q.bias" in names
    if model_type == "mistral":
        values["sliding_window"] = meta.get(f"{prefix}.attention.sliding_window")
    values["rope_parameters"] = _rope(file, values["head_dim"])
    return AutoConfig.for_model(model_type, **values)


def gguf_state_dict(file: GgufFile, config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All weights under transformers' names, dequantised to fp32 and stored as `dtype`.

    Raises:
        TkError: a tensor whose place in the model is not known.
    """
    import torch

    weights = {}
    for tensor in file.tensors:
        if tensor.name == _ROPE_FREQUENCIES:
            continue
        values = torch.from_numpy(file.load(tensor))
        if file.architecture == "llama" and re.search(r"\.attn_[qk]\.", tensor.name):
            heads = config.num_attention_heads if ".attn_q." in tensor.name else config.num_key_value_heads
            values = _halves_from_pairs(values, heads)
        weights[_name(file, tensor.name)] = values.to(dtype).contiguous()
    return weights


def _name(file: GgufFile, name: str) -> str:
    block = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if block is None or block[2] not in _NAMES:
        raise TkError(
            f"{file.path} has a tensor {name!r}, which no weight of {file.architecture} is known by",
            hint="Use the model's folder in safetensors format instead of the GGUF file.",
        )
    layer, kind, suffix = block.groups()
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{_NAMES[kind]}.{suffix}"


def _halves_from_pairs(values: torch.Tensor, heads: int) -> torch.Tensor:
    # llama.cpp rotates neighbouring rows of a head, transformers row i with row i + half.
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)


def _rope(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """Rotary settings. Llama 3.1 and later are recognised by the factors that the file stores."""
    meta, prefix = file.metadata, file.architecture
    theta = meta.get(f"{prefix}.rope.freq_base", 10000.0)
    plain = {"rope_type": "default", "rope_theta": theta}
    kind = meta.get(f"{prefix}.rope.scaling.type", "none")
    if kind in ("linear", "yarn"):
        scaled = {"rope_type": kind, "rope_theta": theta, "factor": meta[f"{prefix}.rope.scaling.factor"]}
        original = meta.get(f"{prefix}.rope.scaling.original_context_length")
        if kind == "yarn" and original:
            scaled["original_max_position_embeddings"] = original
        return scaled
    stored = next((t for t in file.tensors if t.name == _ROPE_FREQUENCIES), None)
    if stored is None:
        return plain
    factors = file.load(stored).ravel()
    for factor in (8.0, 32.0):
        llama3 = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if abs(_llama3_factors(llama3, head_dim) - factors).max() < 1e-3 * factor:
            return llama3
    raise TkError(
        f"{file.path} stores rotary factors ({_ROPE_FREQUENCIES}) of a kind that transformers has no name for",
        hint="Use the model's folder in safetensors format instead of the GGUF file.",
    )


def _llama3_factors(rope: Mapping[str, Any], head_dim: int) -> Any:
    """By what llama3 scaling divides each of the `head_dim / 2` frequencies."""
    import numpy as np

    wavelength = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, original = (
        rope[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / rope["factor"] + smooth)

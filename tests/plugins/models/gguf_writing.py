"""Writes tiny models as GGUF files, as llama.cpp's converter would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tkernel_plugins.models.gguf_weights import _NAMES

_GEMMA2 = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    pre: str = "gpt-2",
    quantised: bool = False,
    without: str = "none",
    **more: Any,
) -> Path:
    """`model` and `tokenizer` in one file; matrices as Q8_0 if `quantised`, else everything in float32."""
    import gguf
    import numpy as np

    config = model.config
    architecture = {"mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    for key, value in more.items():
        writer.add_tensor(key.replace("__", "."), value)
    _add_tokenizer(writer, tokenizer, pre)
    ours = {theirs: name for name, theirs in _NAMES.items()}
    if architecture == "gemma2":
        ours |= _GEMMA2
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        steps = stem.split(".")
        if steps[:2] == ["model", "layers"]:
            kind, prefix = ours[".".join(steps[3:])], f"blk.{steps[2]}."
        else:
            kind, prefix = ours[stem], ""
        array = value.float().numpy()
        if architecture == "llama" and kind in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if architecture == "gemma2" and kind.endswith("norm"):
            array = array + 1
        if f"{prefix}{kind}" == without:
            continue
        if quantised and array.ndim == 2 and array.shape[1] % 32 == 0:
            kind_of = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{prefix}{kind}.{suffix}", gguf.quantize(array, kind_of), raw_dtype=kind_of)
        else:
            writer.add_tensor(f"{prefix}{kind}.{suffix}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, pre: str) -> None:
    import json

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in described["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in described["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)

"""The options that every built-in model plugin shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tkernel_plugins.hub_options import HubOptions


@dataclass(frozen=True)
class ModelOptions(HubOptions):
    """How a model is loaded. Names, types and defaults are LLaMA-Factory's except where a field says so."""

    model_revision: str = "main"
    """Branch, tag or commit of a hub model. Local folders and GGUF files have none."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Without it, such a model is loaded only if transformers
    has an implementation of its own, and refused otherwise."""
    allow_pickle: bool = False
    """Load `.bin` and `.pt` weights, which can run code when they are opened. Ours; off means safetensors only."""
    use_fast_tokenizer: bool = True
    """transformers 5 has fast tokenizers only; false is answered with a warning."""
    split_special_tokens: bool = False
    """Cut the text of special tokens into pieces instead of recognising it."""
    low_cpu_mem_usage: bool = True
    """transformers 5 always loads without a second copy in memory; false is answered with a warning."""
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = "auto"
    """Attention implementation: `auto` is transformers' choice (sdpa where there is one), `disabled` is eager,
    `fa2` and `fa3` need their package and a GPU."""
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Precision for inference: `auto` is float32 on the CPU, bfloat16 on a GPU that has it, else the
    checkpoint's. Training follows `bf16` and `fp16`."""
    device_map: str | dict[str, Any] | None = None
    """Where the layers go (`auto`, `cpu`, `cuda:0`, or a mapping). None: for training, where the Trainer puts
    them; for inference, the first GPU, else the CPU."""
    offload_folder: str = "offload"
    """Folder for layers that `device_map` sends to disk."""
    use_kv_cache: bool = True
    """Keep keys and values while generating. Training never does."""
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = None
    """How positions are stretched: by the whole factor that `model_max_length`, else `cutoff_len`, needs; twofold
    for inference without either. Not at all if the model reads `cutoff_len` tokens anyway."""
    model_max_length: int | None = field(default=None, metadata={"ge": 1})
    """Longest sequence in tokens, for `rope_scaling` and the tokenizer; None is the model's own."""
    train_from_scratch: bool = False
    """Random weights (drawn from `seed`) instead of the checkpoint's; only config and tokenizer are read."""
    add_tokens: str | None = None
    """Ordinary tokens to add, separated by commas. Their embeddings are trained and saved."""
    add_special_tokens: str | None = None
    """Special tokens to add, separated by commas. Their embeddings are trained and saved."""
    resize_vocab: bool = False
    """Grow the embeddings to the tokenizer (to a multiple of 64 rows); implied by added tokens."""
    disable_gradient_checkpointing: bool | None = None
    """Gradient checkpointing trades time for memory and changes no result. False turns it on, true off. None
    (LLaMA-Factory: false): on when training on a GPU; off on the CPU, where it costs a quarter of the speed,
    unless `gradient_checkpointing: true` asks for it."""
    use_reentrant_gc: bool = True
    """The reentrant kind of gradient checkpointing."""
    upcast_layernorm: bool = False
    """Keep the weights of normalisation layers in float32."""
    upcast_lmhead_output: bool = False
    """Turn the logits into float32 at the output head."""
    moe_aux_loss_coef: float | None = field(default=None, metadata={"ge": 0})
    """Weight of the loss that balances experts; an error for models without a router."""

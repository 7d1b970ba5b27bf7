"""LoRA by `unsloth.FastLanguageModel.get_peft_model`; targets, merging and resuming are those of `lora`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import unsloth
from peft import LoraConfig, PeftModel

from tk_unsloth.loading import checkpointing
from tkernel import ModelBundle
from tkernel.errors import TkError
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.lora import LoraOptions
from tkernel_plugins.adapters.lora_layers import adapt as adapt_lora


def adapt(bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
    """Merge, resume or inject; see `tkernel_plugins.adapters.lora`."""
    if unsloth.DEVICE_TYPE != "cpu" and not hasattr(bundle.module, "_saved_temp_tokenizer"):
        raise TkError(
            f"unsloth adapts what it has loaded itself, and {bundle.facts.name} was loaded otherwise",
            hint="Prefer all of it: `plugins: [unsloth]`.",
        )
    options = request.options or LoraOptions()
    way = checkpointing(request)
    adapted = adapt_lora(bundle, request, options, wrap=partial(_wrap, way=way))
    # An adapter of an earlier run was put in by peft, without unsloth's kernels.
    patch = getattr(unsloth.FastLanguageModel, "patch_peft_model", None)
    resumed = request.trainable and bool(request.adapters) and not options.create_new_adapter
    if resumed and patch is not None:
        return replace(adapted, module=patch(adapted.module, way))
    return adapted


def _wrap(module: Any, config: LoraConfig, seed: int, *, way: str | bool) -> PeftModel:
    """The module with unsloth's adapter, whose first values `seed` alone decides."""
    further = {
        name: value
        for name in ("exclude_modules", "trainable_token_indices")
        if (value := getattr(config, name)) is not None
    }
    with torch.random.fork_rng():
        return unsloth.FastLanguageModel.get_peft_model(
            module,
            r=config.r,
            target_modules=sorted(config.target_modules or ()),
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            bias=config.bias,
            use_gradient_checkpointing=way,
            random_state=seed,
            use_rslora=config.use_rslora,
            modules_to_save=config.modules_to_save,
            ensure_weight_tying=config.ensure_weight_tying,
            **further,
        )

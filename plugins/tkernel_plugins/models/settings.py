"""Model options as transformers wants them. Not a plugin; a library of this folder."""

from __future__ import annotations

import logging
import math
from typing import Any

from tkernel.errors import TkError
from tkernel.types.requests import ModelRequest
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.models.precision import device_of

logger = logging.getLogger(__name__)

_ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2", "fa3": "flash_attention_3"}
_PACKAGES = {"fa2": "flash-attn", "fa3": "flash-attn-3"}


def adjust_config(config: Any, request: ModelRequest, options: ModelOptions) -> None:
    """Put the options that are settings of the model itself into `config`: cache, positions, router."""
    text = config.get_text_config()
    cache = options.use_kv_cache and not request.trainable
    for one in (config, text):
        one.use_cache = cache
    if options.rope_scaling is not None:
        _stretch_positions(text, request, options)
    if options.moe_aux_loss_coef is not None:
        _balance_experts(text, options.moe_aux_loss_coef, request.trainable)


def weight_arguments(request: ModelRequest, options: ModelOptions) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for attention and placement."""
    device = device_of(request.arguments)
    arguments: dict[str, Any] = {}
    if options.flash_attn != "auto":
        _check_attention(options.flash_attn, device.type)
        arguments["attn_implementation"] = _ATTENTION[options.flash_attn]
    if not options.low_cpu_mem_usage:
        logger.warning("low_cpu_mem_usage: false has no effect: transformers 5 always loads without a copy")
    if options.device_map is not None:
        arguments["device_map"] = options.device_map
        arguments["offload_folder"] = options.offload_folder
    elif not request.trainable and device.type != "cpu":
        arguments["device_map"] = {"": device}
    return arguments


def checkpoints_gradients(request: ModelRequest, options: ModelOptions) -> bool:
    """Whether activations are recomputed in the backward pass instead of kept.

    `gradient_checkpointing` (or its new name `activation_checkpointing`) among the training arguments decides;
    then `disable_gradient_checkpointing`; else it is on when training on a GPU.

    Raises:
        TkError: one of the two is set against the other.
    """
    if not request.trainable:
        return False
    asked = request.arguments.get("activation_checkpointing", request.arguments.get("gradient_checkpointing"))
    disabled = options.disable_gradient_checkpointing
    if asked is not None and disabled is not None and bool(asked) == disabled:
        raise TkError(
            f"`gradient_checkpointing: {str(bool(asked)).lower()}` and `disable_gradient_checkpointing: "
            f"{str(disabled).lower()}` contradict each other",
            hint="Leave one of the two out.",
        )
    if asked is not None:
        return bool(asked)
    if disabled is not None:
        return not disabled
    return bool(device_of(request.arguments).type != "cpu")


def _check_attention(name: str, device: str) -> None:
    from transformers import utils

    if name not in _PACKAGES:
        return
    installed = {"fa2": utils.is_flash_attn_2_available, "fa3": utils.is_flash_attn_3_available}[name]
    if device == "cpu":
        raise TkError(f"`flash_attn: {name}` needs a GPU", hint="Use `flash_attn: auto`.")
    if not installed():
        raise TkError(
            f"`flash_attn: {name}` needs the package {_PACKAGES[name]}, which is not installed",
            hint=f"pip install {_PACKAGES[name]}, or use `flash_attn: auto`.",
        )


def _stretch_positions(text: Any, request: ModelRequest, options: ModelOptions) -> None:
    """LLaMA-Factory's rule: to what training samples need, twofold for inference where that is not known."""
    original = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None)
    if original is None or not isinstance(rope, dict) or "rope_theta" not in rope:
        raise TkError(
            f"`rope_scaling` has nothing to scale: {text.model_type} has no single set of rotary positions"
        )
    wanted = options.model_max_length or _longest_sample(request)
    if options.model_max_length is not None and wanted <= original:
        raise TkError(
            f"`rope_scaling` has nothing to do: the model reads {original} tokens, and `model_max_length` is {wanted}",
            hint="Leave `rope_scaling` out.",
        )
    if wanted is not None and wanted <= original:
        logger.warning(
            "rope_scaling is not needed: the model reads %d tokens, cutoff_len is %d", original, wanted
        )
        return
    scaled = {"rope_theta": rope["rope_theta"], "rope_type": options.rope_scaling}
    scaled["factor"] = 2.0 if wanted is None else float(math.ceil(wanted / original))
    if options.rope_scaling in ("dynamic", "yarn", "llama3"):
        scaled["original_max_position_embeddings"] = original
    if options.rope_scaling == "llama3":
        scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    text.rope_parameters = scaled
    text.max_position_embeddings = options.model_max_length or int(original * scaled["factor"])


def _longest_sample(request: ModelRequest) -> int | None:
    """`cutoff_len`, which decides how far positions are stretched; None for inference that names none."""
    usual = PrepareOptions.cutoff_len if request.trainable else None
    return request.settings.get("cutoff_len", usual)


def _balance_experts(text: Any, coefficient: float, trainable: bool) -> None:
    if not hasattr(text, "router_aux_loss_coef"):
        raise TkError(
            f"`moe_aux_loss_coef` is for models with routed experts; {text.model_type} has no such loss",
            hint="Leave it out.",
        )
    text.router_aux_loss_coef = coefficient
    text.output_router_logits = trainable

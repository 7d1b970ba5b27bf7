"""What unsloth cannot do, told while the run is planned; unsloth itself is not imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel_plugins.adapters.adapter_config import check_adapters
from tkernel_plugins.adapters.options import names_of, precision_problems
from tkernel_plugins.models.checks import check_model as check_plain_model
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.training.devices import no_accelerator

UNUSED: Mapping[str, str] = {
    "device_map": "unsloth places the layers itself",
    "flash_attn": "unsloth chooses the attention itself",
    "moe_aux_loss_coef": "none of the families that it serves has a router",
    "rope_scaling": "unsloth stretches the positions itself, to `cutoff_len`",
    "upcast_layernorm": "unsloth chooses the precision of each layer itself",
    "upcast_lmhead_output": "unsloth computes the loss without the logits",
}
"""Options of the model that would have no effect, each with the reason."""

GENERATING = ("grpo", "ppo", "rloo")
"""Stages that generate replies while they train."""


def check_model(request: CheckRequest) -> Iterator[Problem]:
    """Contradictions, options without effect, and runs that unsloth cannot do."""
    yield from check_plain_model(request)
    settings, arguments = request.settings, request.arguments
    for key, reason in UNUSED.items():
        if getattr(request.options, key) != getattr(ModelOptions(), key):
            yield _problem(f"`{key}` has no effect with unsloth: {reason}", key, f"Leave `{key}` out.")
    if request.facts is not None and not request.facts.chat_template and settings.get("template") is None:
        message = f"{request.facts.name} brings no chat template, and unsloth names none for it"
        yield _problem(message, "template", "Set it; what the plain plugin names: tk plan FILE.")
    if "stage" not in request.calls:
        return
    method = settings.get("finetuning_type", "lora")
    if method not in ("lora", "full"):
        message = f"unsloth trains a LoRA or everything, not `finetuning_type: {method}`"
        yield _problem(message, "finetuning_type", "Use `lora` or `full`, or leave unsloth out.")
    stage = settings.get("stage", "sft")
    if stage in GENERATING:
        message = (
            f"stage {stage} generates replies while it trains, which this plugin does not switch unsloth to"
        )
        yield _problem(message, "stage", "Leave unsloth out.")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        message = f"this plugin runs unsloth in one process, and {count} were started"
        yield _problem(message, "model_name_or_path", "Start one, without torchrun, or leave unsloth out.")
    forced = "UNSLOTH_FORCE_CPU is 1" if os.environ.get("UNSLOTH_FORCE_CPU") == "1" else None
    yield from device_problems(settings, arguments, forced or no_accelerator())


def device_problems(
    settings: Mapping[str, Any], arguments: Mapping[str, Any], no_gpu: str | None
) -> Iterator[Problem]:
    """What unsloth does otherwise on the device; `no_gpu` is why there surely is none, None where there may be one."""
    if no_gpu:
        optimiser = str(arguments.get("optim", ""))
        if "8bit" in optimiser or "paged" in optimiser:
            message = f"`optim: {optimiser}` needs a GPU, and unsloth would silently take another one"
            yield _problem(message, "optim", "Use `optim: adamw_torch`.")
        return
    if arguments.get("use_cpu"):
        message = "`use_cpu: true` does not keep unsloth from the GPU"
        yield _problem(message, "use_cpu", "Set the environment variable UNSLOTH_FORCE_CPU=1 as well.")
    for key in ("neat_packing", "padding_free"):
        if settings.get(key):
            message = f"on a GPU unsloth drops attention masks while it trains, so `{key}` would mix samples"
            yield _problem(message, key, "Use `packing: true`, where samples see each other, or neither.")


def check_lora(request: CheckRequest) -> Iterator[Problem]:
    """What `lora` checks, DoRA, and modules that unsloth does not train whole."""
    options = request.options
    yield from check_adapters(request)
    yield from precision_problems(options, request.arguments)
    if options.use_dora:
        message = "unsloth's kernels know no DoRA"
        yield _problem(message, "use_dora", "Leave `use_dora` or unsloth out.")
    for target in names_of(options.additional_target):
        leaf = target.rpartition(".")[2]
        if leaf not in ("embed_tokens", "lm_head") and "norm" not in leaf:
            message = f"of whole modules unsloth trains embeddings, head and norms, not `{target}`"
            yield _problem(message, "additional_target", "Leave it or unsloth out.")


def _problem(message: str, key: str, hint: str) -> Problem:
    return Problem(message, key=key, hint=hint)

"""In which precision and on which device a model is loaded. Not a plugin; a library of this folder.

Training: trained weights are always held in float32 (adapter plugins see to it); what is frozen may be held
in the precision that is computed in. So a model is loaded without losing anything, in its checkpoint's own
precision if `bf16` or `fp16` is asked for, and the adapter plugin, which knows what will be frozen, casts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tkernel.errors import TkError
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import ModelRequest
from tkernel_plugins.models.options import ModelOptions

if TYPE_CHECKING:
    import torch


def device_of(arguments: Mapping[str, Any]) -> torch.device:
    """The device of this process: an accelerator if there is one and `use_cpu` is not set."""
    import torch

    if arguments.get("use_cpu") or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def checkpoint_dtype(facts: ModelFacts) -> torch.dtype:
    """The precision that the weights are stored in; float32 if the config does not say (GGUF)."""
    import torch

    text = facts.config.get("text_config") or {}
    named = (facts.config.get(key) or text.get(key) for key in ("dtype", "torch_dtype"))
    name = next((str(value).removeprefix("torch.") for value in named if value), "float32")
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def load_dtype(request: ModelRequest, options: ModelOptions) -> torch.dtype:
    """The precision that `request` is to be loaded in.

    - Training with `bf16`, `fp16` or `pure_bf16`: the checkpoint's own; nothing is lost before the adapter plugin casts.
    - Reference, reward and teacher models of such a run: bfloat16 or float16.
    - Training with neither: float32 on the CPU; on a GPU the checkpoint's, float32 where the GPU lacks it.
    - Inference: `infer_dtype`.

    Raises:
        TkError: `fp16` on a CPU.
    """
    import torch

    stored, device = checkpoint_dtype(request.facts), device_of(request.arguments)
    scores = not request.trainable and request.role != "policy"
    if request.trainable or scores:
        asked = torch.bfloat16 if request.settings.get("pure_bf16") else compute_dtype(request.arguments)
        if asked is torch.float16 and device.type == "cpu":
            raise TkError(
                "`fp16: true` needs a GPU", hint="On a CPU use `bf16: true`, or neither for float32."
            )
        if asked is not None:
            return asked if scores else stored
        return torch.float32 if device.type == "cpu" else _on_gpu(stored)
    if options.infer_dtype != "auto":
        dtype = getattr(torch, options.infer_dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if _has_bfloat16() else stored if stored != torch.bfloat16 else torch.float16


def compute_dtype(arguments: Mapping[str, Any]) -> torch.dtype | None:
    """The precision that training arguments ask to compute in; None if they ask for none."""
    import torch

    if arguments.get("bf16"):
        return torch.bfloat16
    return torch.float16 if arguments.get("fp16") else None


def _on_gpu(stored: torch.dtype) -> torch.dtype:
    import torch

    return torch.float32 if stored == torch.bfloat16 and not _has_bfloat16() else stored


def _has_bfloat16() -> bool:
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported()

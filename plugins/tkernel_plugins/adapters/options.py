"""Options that the built-in adapter plugins share. Not a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.errors import Problem


@dataclass(frozen=True)
class AdapterOptions:
    """What is frozen in a multimodal model, and whether the result is listed."""

    freeze_vision_tower: bool = True
    """Leave the encoder of images, video or sound as it is."""
    freeze_multi_modal_projector: bool = True
    """Leave the layers between encoder and language model as they are."""
    freeze_language_model: bool = False
    """Leave the language model as it is."""
    pure_bf16: bool = False
    """Hold what is trained in bfloat16 too, and compute in it without autocast: half the memory of `bf16`, but
    small updates are rounded away."""
    print_param_status: bool = False
    """Print name, shape, precision, device and trainability of every parameter."""


def names_of(listed: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names given as a YAML list or as text with commas, without blanks; `()` for None."""
    if listed is None:
        return ()
    parts = listed.split(",") if isinstance(listed, str) else listed
    return tuple(name.strip() for name in parts if name.strip())


def precision_problems(options: AdapterOptions | None, arguments: Mapping[str, Any]) -> list[Problem]:
    """`pure_bf16` beside the mixed precision that it replaces."""
    mixed = [key for key in ("bf16", "fp16") if arguments.get(key)]
    if options is None or not options.pure_bf16 or not mixed:
        return []
    message = f"`pure_bf16` computes in bfloat16 alone, and `{mixed[0]}: true` asks for mixed precision"
    return [Problem(message, key="pure_bf16", hint="Keep one of the two.")]


def unused_adapters(method: str, adapters: Sequence[str]) -> list[Problem]:
    """`adapter_name_or_path` names LoRA folders, which `full` and `freeze` have no use for."""
    message = f"`finetuning_type: {method}` cannot load the adapter {adapters[0] if adapters else None}"
    hint = "Use `finetuning_type: lora`; with `create_new_adapter: true` it merges the old adapter first."
    return [Problem(message, key="adapter_name_or_path", hint=hint)] if adapters else []

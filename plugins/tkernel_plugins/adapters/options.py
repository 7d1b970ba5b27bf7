"""Options that the built-in adapter plugins share. Not a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    print_param_status: bool = False
    """Print name, shape, precision, device and trainability of every parameter."""


def names_of(listed: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names given as a YAML list or as text with commas, without blanks; `()` for None."""
    if listed is None:
        return ()
    parts = listed.split(",") if isinstance(listed, str) else listed
    return tuple(name.strip() for name in parts if name.strip())


def unused_adapters(method: str, adapters: Sequence[str]) -> list[Problem]:
    """`adapter_name_or_path` names LoRA folders, which `full` and `freeze` have no use for."""
    message = f"`finetuning_type: {method}` cannot load the adapter {adapters[0] if adapters else None}"
    hint = "Use `finetuning_type: lora`; with `create_new_adapter: true` it merges the old adapter first."
    return [Problem(message, key="adapter_name_or_path", hint=hint)] if adapters else []

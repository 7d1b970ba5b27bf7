"""`adapter_config.json` of a LoRA adapter: read, and compared with options, without torch. Not a plugin."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import Problem, TkError
from tkernel.types.check import CheckRequest
from tkernel_plugins.adapters.options import names_of
from tkernel_plugins.sources.hub import hub_folder

if TYPE_CHECKING:
    from tkernel_plugins.adapters.lora import LoraOptions

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def check_adapters(request: CheckRequest) -> Iterator[Problem]:
    """Adapters that cannot be loaded, and options that the one which is trained further contradicts."""
    options: LoraOptions = request.options
    key, names = "adapter_name_or_path", request.run.adapter_name_or_path
    for name in names:
        folder = Path(name).expanduser()
        if name in request.coming and not folder.exists():
            continue  # an earlier stage of the chain will write it
        try:
            if not folder.is_dir():
                folder = hub_folder(name, (CONFIG,), "an adapter", **hub_access(request.settings))
                config = read_config(folder)
            else:
                config = read_config(folder)
                check_weights(folder)
        except TkError as error:
            yield Problem(error.message, key=key, hint=error.hint)
            continue
        if name == names[-1] and "stage" in request.calls and not options.create_new_adapter:
            for option, message, hint in contradictions(name, config, options, request.settings):
                yield Problem(message, key=option, hint=hint)


def hub_access(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where adapters of the hub are kept, and what opens those that are not public."""
    return {"cache_dir": settings.get("cache_dir"), "token": settings.get("hf_hub_token")}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of the config in `folder`.

    Raises:
        TkError: there is none, it is damaged, or it is that of another method than LoRA.
    """
    if not (folder / CONFIG).exists():
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
        nested = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))
        hint = f"Did you mean {folder / nested[-1]}?" if nested else f"In it: {found}."
        raise TkError(f"{folder} is not an adapter: it has no {CONFIG}", hint=hint)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{folder / CONFIG} is damaged: {error}"
        raise TkError(message, hint="Use an earlier checkpoint of that run.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        method = config.get("peft_type") if isinstance(config, dict) else None
        hint = "Name the `finetuning_type` that made it."
        raise TkError(f"{folder} is a {method} adapter, not a LoRA", hint=hint)
    return config


def check_weights(folder: Path) -> None:
    """Raise `TkError` if the weights are not there, or are a pickle."""
    if not (folder / WEIGHTS).exists():
        pickled = (folder / "adapter_model.bin").exists()
        raise TkError(
            f"{folder} has no {WEIGHTS}" + ("; its adapter_model.bin is a pickle" if pickled else ""),
            hint="Save the adapter in safetensors format."
            if pickled
            else "Was the run that wrote it cut off?",
        )


def contradictions(
    path: str, had: Mapping[str, Any], options: LoraOptions, written: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """Options that cannot take effect, because the adapter that is trained further has another value.

    An option counts if it was `written`, also with the value of its default, or is not at its default.
    `lora_target: all`, and `additional_target` of tied layers, are left to who knows the model. Gives name, message,
    hint.
    """
    default = type(options)()
    wanted = {
        "lora_rank": (options.lora_rank, had.get("r")),
        "lora_alpha": (options.lora_alpha, had.get("lora_alpha")),
        "lora_dropout": (options.lora_dropout, had.get("lora_dropout")),
        "use_rslora": (options.use_rslora, had.get("use_rslora", False)),
        "use_dora": (options.use_dora, had.get("use_dora", False)),
        "lora_target": (_listed(options.lora_target), _listed(had.get("target_modules"))),
        "additional_target": (_listed(options.additional_target), _listed(had.get("modules_to_save"))),
    }
    for name, (value, old) in wanted.items():
        if name == "additional_target" and had.get("ensure_weight_tying"):
            continue
        counts = name in written or getattr(options, name) != getattr(default, name)
        if counts and value not in (old, None) and "all" not in str(value).split(","):
            yield (name, *contradiction(path, name, value, old))


def contradiction(path: str, name: str, value: Any, old: Any) -> tuple[str, str]:
    """Message and hint for an option that cannot take effect."""
    message = (
        f"adapter {path}, which is trained further, has {name} {old}; `{name}: {value}` cannot change that"
    )
    return message, f"Leave `{name}` out, or merge the old adapter with `create_new_adapter: true`."


def _listed(names: Any) -> str:
    """Names in one order and spelling, to compare them."""
    return ",".join(sorted(names_of(names))) or "none"

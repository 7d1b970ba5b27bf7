"""Training arguments that newer transformers dropped and LLaMA-Factory's files still use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tkernel.config.convert import convert
from tkernel.config.read import Setting
from tkernel.config.settle import Settings
from tkernel.errors import Problem


@dataclass(frozen=True)
class Rename:
    """What became of an argument.

    `new` is its name today: an argument, `$VARIABLE` for an environment variable, or None where only one
    behaviour is left. Then `same` are the values that ask for it, and `note` says what it is. `type`
    and `bounds` are what the old argument took, if that is not what the new one takes.
    """

    new: str | None
    note: str = ""
    same: tuple[Any, ...] = ()
    type: Any = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[Any, Any] | None = None


_HALF = "torch's own mixed precision is used"

RENAMES: Mapping[str, Rename] = {
    "adafactor": Rename("optim", type=bool, values={True: "adafactor", False: "adamw_torch"}),
    "evaluation_strategy": Rename("eval_strategy"),
    "fp16_backend": Rename(None, _HALF, same=("auto", "amp", None)),
    "fp16_opt_level": Rename(None, _HALF, same=("O1", None)),
    "gradient_checkpointing": Rename("activation_checkpointing"),
    "gradient_checkpointing_kwargs": Rename("activation_checkpointing_kwargs"),
    "group_by_length": Rename(
        "train_sampling_strategy", type=bool, values={True: "group_by_length", False: "random"}
    ),
    "half_precision_backend": Rename(None, _HALF, same=("auto", None)),
    "include_tokens_per_second": Rename(
        None, "tokens per second are always logged", type=bool | None, same=(True, False, None)
    ),
    "logging_dir": Rename("$TENSORBOARD_LOGGING_DIR", type=str | None),
    "no_cuda": Rename("use_cpu"),
    "per_gpu_eval_batch_size": Rename("per_device_eval_batch_size"),
    "per_gpu_train_batch_size": Rename("per_device_train_batch_size"),
    "push_to_hub_model_id": Rename("hub_model_id"),
    "push_to_hub_token": Rename("hub_token"),
    "save_safetensors": Rename(
        None, "weights are always saved as safetensors", type=bool | None, same=(True, None)
    ),
    "use_ipex": Rename(None, "Intel's extension is not used", type=bool | None, same=(False, None)),
    "use_mps_device": Rename(
        None, "an Apple GPU is used where there is one", type=bool | None, same=(True, False, None)
    ),
    "warmup_ratio": Rename(
        "warmup_steps", "below 1 it is a share of all steps", type=float, bounds={"ge": 0, "lt": 1}
    ),
}
"""Old name -> what became of it; used only where the installed class lacks the old name."""


def rename(
    settings: Settings, keys: Collection[str], problems: list[Problem], notes: list[str]
) -> tuple[Settings, dict[str, str]]:
    """Settings under the names of `keys`, and environment variables for those that became one."""
    kept: list[Setting] = []
    environment: dict[str, str] = {}
    for name in settings:
        setting = settings.setting(name)
        found = None if name in keys else RENAMES.get(name)
        if found is None or (found.new and found.new[0] != "$" and found.new not in keys):
            kept.append(setting)
            continue
        new, why = found.new, f": {found.note}" if found.note else ""
        value, problem = setting.value, None
        if found.type is not None:
            value, problem = convert(setting, found.type, found.bounds)
        if problem is not None:
            problems.append(problem)
        elif new is None and value not in found.same:
            message = f"{name} is gone from transformers{why}"
            problems.append(Problem(message, setting.origin, name, "Take the line out."))
        elif new is None:
            notes.append(f"{setting.origin}: {name} is no longer needed{why}")
        elif new in settings:
            message = f"{name} is an older name of {new}, which {settings.origin(new)} sets too"
            problems.append(Problem(message, setting.origin, name, "Keep one of the two."))
        elif new[0] == "$":
            environment |= {new[1:]: value} if value else {}
            notes.append(f"{setting.origin}: {name} is now the environment variable {new[1:]}")
        else:
            value = found.values[value] if found.values else value
            kept.append(Setting(new, value, setting.origin, None if found.values else setting.text))
            notes.append(f"{setting.origin}: {name} is now {new}{why}")
    return Settings([kept]), environment

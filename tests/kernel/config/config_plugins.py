"""Options of small plugins for the tests of configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tkernel.config.bind import Owner


@dataclass(frozen=True)
class AdapterOptions:
    lora_rank: int = field(default=8, metadata={"ge": 1})
    lora_alpha: int | None = None
    lora_dropout: float = field(default=0.0, metadata={"ge": 0, "lt": 1})
    lora_target: str = "all"
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrepareOptions:
    packing: bool | None = None
    mask_history: bool = False
    truncation: Literal["proportional", "left", "right"] = "proportional"


@dataclass(frozen=True)
class StageOptions(PrepareOptions):
    plot_loss: bool = False


LORA = Owner("adapter:lora", "tkernel", AdapterOptions)
SFT = Owner("stage:sft", "tkernel", StageOptions)


def options_source(*names: str) -> str:
    """The source of a plugin with these options."""
    fields = "\n".join(f"    {name}: int = 0" for name in names)
    return (
        "from dataclasses import dataclass\nprint('noise')\n"
        f"@dataclass(frozen=True)\nclass Options:\n{fields}\nclass PLUGIN:\n    Options = Options\n"
    )

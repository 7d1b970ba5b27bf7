"""`adapter:lora`: low-rank adapters (https://arxiv.org/abs/2106.09685) on peft."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tkernel import ModelBundle, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions, names_of, precision_problems


@dataclass(frozen=True)
class LoraOptions(AdapterOptions):
    """Options of `finetuning_type: lora`."""

    lora_rank: int = field(default=8, metadata={"ge": 1})
    """Rank of each update `B A`."""
    lora_alpha: int | None = field(default=None, metadata={"ge": 1})
    """The update is scaled by `lora_alpha / lora_rank`; None is twice the rank."""
    lora_dropout: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    """Dropout of an adapter's input."""
    lora_target: str | list[str] = "all"
    """Which linear layers get an adapter: names (`q_proj,v_proj`), or `all` of the language model's."""
    additional_target: str | list[str] | None = None
    """Modules that are trained as a whole and saved with the adapter (`embed_tokens,lm_head`)."""
    use_rslora: bool = False
    """Scale by `lora_alpha / sqrt(lora_rank)` (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Train magnitudes apart from directions (https://arxiv.org/abs/2402.09353)."""
    create_new_adapter: bool = False
    """Merge all of `adapter_name_or_path` and begin a new adapter, instead of continuing the last one."""


class Lora:
    """Injects, resumes, stacks and merges LoRA adapters.

    `adapter_name_or_path` may name several: all but the last are merged into the weights, and the last one is
    trained further (or merged too, with `create_new_adapter`). For inference all are merged.
    """

    name = "lora"
    Options = LoraOptions
    saves_adapter = True

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Adapters that cannot be loaded, options that cannot change the one that is trained further, precision."""
        from tkernel_plugins.adapters.adapter_config import check_adapters

        yield from check_adapters(request)
        yield from precision_problems(request.options, request.arguments)
        if request.options and not names_of(request.options.lora_target):
            hint = "Name layers, `q_proj,v_proj`, or write `all`."
            yield Problem("`lora_target` names no layer", key="lora_target", hint=hint)

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """The bundle with a `PeftModel` to train, or with everything merged for inference."""
        from tkernel_plugins.garbage import seldom_searched

        with seldom_searched():  # peft is imported here
            from tkernel_plugins.adapters.lora_layers import adapt
            from tkernel_plugins.training.quiet import quiet

            with quiet():
                return adapt(bundle, request, request.options or LoraOptions())


ADAPTER = Lora()

"""unsloth as plugins of tk: a model plugin for the families that it knows, and a variant of `lora`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import AdapterRequest, ModelRequest
from tkernel_plugins.models.options import ModelOptions

# As the built-in model plugins do before they import torch, which unsloth does as soon as it is imported first:
# threads that wait in a loop take the processor from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FAMILIES = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` for which unsloth has code of its own."""


@dataclass(frozen=True)
class Options(ModelOptions):
    """How a model is loaded by unsloth."""

    use_unsloth_gc: bool = False
    """Recompute activations in the backward pass, in unsloth's way, also where `disable_gradient_checkpointing`
    leaves that off by itself. Where gradient checkpointing is on, it is unsloth's anyway."""


class Model:
    """Loads language models of `FAMILIES` with `unsloth.FastLanguageModel`."""

    name = "unsloth"
    Options = Options
    import_first = ("unsloth",)

    def accepts(self, facts: ModelFacts) -> bool:
        """Text models of the families that unsloth has code for."""
        return facts.model_type in FAMILIES and not facts.is_multimodal

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """What unsloth cannot do, and options that it has no use for."""
        from tk_unsloth.checks import check_model

        return check_model(request)

    @hookimpl
    def load_model(self, request: ModelRequest) -> ModelBundle:
        """Load from a folder, the hub or a GGUF file; see `tk_unsloth.loading`."""
        from tk_unsloth.loading import load
        from tkernel_plugins.training.quiet import quiet

        with quiet():
            return load(request)


class Lora:
    """The variant of `lora` that unsloth injects, with lora's own options."""

    name = "lora.unsloth"
    import_first = ("unsloth",)

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """What `lora` checks, and what unsloth cannot do of it."""
        from tk_unsloth.checks import check_lora

        return check_lora(request)

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """The bundle with a `PeftModel` to train, or with everything merged for inference."""
        from tk_unsloth.adapting import adapt
        from tkernel_plugins.training.quiet import quiet

        with quiet():
            return adapt(bundle, request)


MODEL, LORA = Model(), Lora()

"""`adapter:freeze`: train some of the layers as they are, freeze the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.errors import Problem, TkError
from tkernel.types.check import CheckRequest
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions, names_of, precision_problems, unused_adapters


@dataclass(frozen=True)
class FreezeOptions(AdapterOptions):
    """Options of `finetuning_type: freeze`."""

    freeze_trainable_layers: int = 2
    """How many layers are trained: the last ones if positive, the first ones if negative."""
    freeze_trainable_modules: str | list[str] = "all"
    """Which parts of those layers: names (`mlp,self_attn`), or `all`."""
    freeze_extra_modules: str | list[str] | None = None
    """What else is trained, outside of the layers: names (`embed_tokens,norm`)."""


class Freeze:
    """Trains a few layers in float32 and freezes the others."""

    name = "freeze"
    Options = FreezeOptions

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """An adapter of an earlier run, which only LoRA can load, and two precisions at once."""
        unused = unused_adapters(self.name, request.run.adapter_name_or_path)
        return [*unused, *precision_problems(request.options, request.arguments)]

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """Unfreeze the layers and modules that the options name; new tokens' embeddings with them."""
        from tkernel_plugins.adapters.layers import selected
        from tkernel_plugins.adapters.parameters import train_parameters

        for problem in unused_adapters(self.name, request.adapters):
            raise TkError(problem.message, hint=problem.hint)
        options = request.options or FreezeOptions()
        wanted = selected(
            bundle.module,
            bundle.facts.name,
            options.freeze_trainable_layers,
            names_of(options.freeze_trainable_modules),
            names_of(options.freeze_extra_modules),
            new_tokens=bool(request.new_tokens or bundle.new_tokens),
        )
        train_parameters(bundle, request, options, wanted)
        return bundle


ADAPTER = Freeze()

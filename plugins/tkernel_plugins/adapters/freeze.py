"""`adapter:freeze`: train some of the layers as they are, freeze the rest."""

from __future__ import annotations

from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions, names_of


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

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """Unfreeze the layers and modules that the options name; new tokens' embeddings with them."""
        from tkernel_plugins.adapters.layers import selected
        from tkernel_plugins.adapters.parameters import refuse_adapters, train_parameters

        refuse_adapters(self.name, request)
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

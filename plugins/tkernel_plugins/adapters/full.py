"""`adapter:full`: train every parameter."""

from __future__ import annotations

from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions


@dataclass(frozen=True)
class FullOptions(AdapterOptions):
    """Options of `finetuning_type: full`."""


class Full:
    """Trains every parameter, in float32; of a multimodal model the parts that are not frozen."""

    name = "full"
    Options = FullOptions

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """Unfreeze the model, except the parts that options freeze."""
        from tkernel_plugins.adapters.parameters import refuse_adapters, train_parameters

        refuse_adapters(self.name, request)
        options = request.options or FullOptions()
        train_parameters(bundle, request, options, lambda name: True)
        return bundle


ADAPTER = Full()

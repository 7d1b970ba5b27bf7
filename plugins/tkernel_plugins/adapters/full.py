"""`adapter:full`: train every parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.errors import Problem, TkError
from tkernel.types.check import CheckRequest
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions, precision_problems, unused_adapters


@dataclass(frozen=True)
class FullOptions(AdapterOptions):
    """Options of `finetuning_type: full`."""


class Full:
    """Trains every parameter, in float32; of a multimodal model the parts that are not frozen."""

    name = "full"
    Options = FullOptions

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """An adapter of an earlier run, which only LoRA can load, and two precisions at once."""
        unused = unused_adapters(self.name, request.run.adapter_name_or_path)
        return [*unused, *precision_problems(request.options, request.arguments)]

    @hookimpl
    def adapt(self, bundle: ModelBundle, request: AdapterRequest) -> ModelBundle:
        """Unfreeze the model, except the parts that options freeze."""
        from tkernel_plugins.adapters.parameters import train_parameters

        for problem in unused_adapters(self.name, request.adapters):
            raise TkError(problem.message, hint=problem.hint)
        options = request.options or FullOptions()
        train_parameters(bundle, request, options, lambda name: True)
        return bundle


ADAPTER = Full()

"""What a model family is: a frozen value with the hook. Not a plugin; a library of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from tkernel import ModelBundle, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import ModelRequest
from tkernel_plugins.models.options import ModelOptions


@dataclass(frozen=True)
class Family:
    """A model plugin: its name (a `model_type` of transformers) and what is known about such models.

    `default_template` is used when the model brings no chat template, `lora_targets` are its linear
    layers without the output head (empty: found in the model), `media` names its media processor.
    """

    name: str
    default_template: str = "auto"
    lora_targets: tuple[str, ...] = ()
    media: str | None = None

    Options = ModelOptions

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Options that contradict each other or this machine."""
        from tkernel_plugins.models.checks import check_model

        return check_model(request)

    @hookimpl
    def load_model(self, request: ModelRequest) -> ModelBundle:
        """Load from a folder, the hub or a GGUF file; see `tkernel_plugins.models.loading`."""
        # Threads that wait in a loop take the processor from each other as soon as anything else runs: twelve
        # times slower here with two busy neighbours. Read when torch is imported, so set before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from tkernel_plugins.models.loading import load
        from tkernel_plugins.training.quiet import quiet

        with quiet():
            return load(request)

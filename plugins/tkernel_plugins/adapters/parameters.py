"""Training a model's own parameters. Not a plugin; the library of `full` and `freeze`."""

from __future__ import annotations

from collections.abc import Callable

from tkernel import ModelBundle
from tkernel.errors import TkError
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.options import AdapterOptions
from tkernel_plugins.adapters.parts import parts_of, under
from tkernel_plugins.adapters.precision import print_parameters, settle_precision


def train_parameters(
    bundle: ModelBundle, request: AdapterRequest, options: AdapterOptions, wanted: Callable[[str], bool]
) -> None:
    """Train the parameters whose name is `wanted` and whose part of the model no option freezes.

    With `request.trainable` False, none. Trained ones are held in float32.

    Raises:
        TkError: nothing is left to train.
    """
    module = bundle.module
    frozen = parts_of(module).frozen(options)
    count = 0
    for name, parameter in module.named_parameters():
        trained = request.trainable and wanted(name) and not under(name, frozen)
        parameter.requires_grad_(trained and parameter.is_floating_point())
        count += parameter.numel() if parameter.requires_grad else 0
    if request.trainable and not count:
        raise TkError(
            "nothing is left to train", hint=f"Frozen: {', '.join(frozen) or 'all that was not named'}."
        )
    if request.trainable:
        settle_precision(module, request.arguments, options)
    if options.print_param_status:
        print_parameters(module)

"""What is wrong with the options of a model, told while the run is planned. Not a plugin; a library of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.training.devices import no_accelerator

PACKAGES = {"fa2": ("flash_attn", "flash-attn"), "fa3": ("flash_attn_interface", "flash-attn-3")}
"""Value of `flash_attn` -> the module that it needs, and what it is called."""


def check_model(request: CheckRequest) -> Iterator[Problem]:
    """Options that contradict each other or this machine."""
    options: ModelOptions = request.options
    arguments = request.arguments
    if options.flash_attn in PACKAGES:
        module, package = PACKAGES[options.flash_attn]
        reason = "`use_cpu` is set" if arguments.get("use_cpu") else no_accelerator()
        if reason:
            message = f"`flash_attn: {options.flash_attn}` needs a GPU; {reason}"
            yield Problem(message, key="flash_attn", hint="Use `flash_attn: auto`.")
        elif find_spec(module) is None:
            message = f"`flash_attn: {options.flash_attn}` needs {package}, which is not installed"
            yield Problem(
                message, key="flash_attn", hint=f"pip install {package}, or use `flash_attn: auto`."
            )
    asked = arguments.get("activation_checkpointing", arguments.get("gradient_checkpointing"))
    disabled = options.disable_gradient_checkpointing
    if "stage" in request.calls and None not in (asked, disabled) and bool(asked) == disabled:
        message = (
            f"`gradient_checkpointing: {str(bool(asked)).lower()}` and `disable_gradient_checkpointing: "
            f"{str(disabled).lower()}` contradict each other"
        )
        yield Problem(message, key="disable_gradient_checkpointing", hint="Leave one of the two out.")

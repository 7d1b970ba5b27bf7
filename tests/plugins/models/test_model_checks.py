"""Options of a model that cannot be, told while the run is planned."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tkernel.types.check import CheckRequest
from tkernel_plugins.models import families
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.training.devices import no_accelerator


def found(arguments=(), calls=("model", "stage"), **options):
    request = CheckRequest(ModelOptions(**options), arguments=dict(arguments), calls=calls)
    return {problem.key: problem.message for problem in families.LLAMA.check(request)}


def test_options_as_they_are_by_default_have_no_problem():
    assert found() == {}


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize("on", [True, False])
def test_checkpointing_is_not_asked_for_and_disabled_at_once(name, on):
    problems = found({name: on}, disable_gradient_checkpointing=on)
    assert "contradict each other" in problems["disable_gradient_checkpointing"]
    assert found({name: on}, disable_gradient_checkpointing=not on) == {}
    assert found({name: on}, calls=("model", "engine"), disable_gradient_checkpointing=on) == {}


@pytest.mark.parametrize("kind", ["fa2", "fa3"])
def test_flash_attention_needs_a_gpu_and_its_package(kind):
    assert "`use_cpu` is set" in found({"use_cpu": True}, flash_attn=kind)["flash_attn"]
    if no_accelerator():
        assert "needs a GPU" in found(flash_attn=kind)["flash_attn"]
    elif not find_spec("flash_attn"):
        assert "not installed" in found(flash_attn="fa2")["flash_attn"]

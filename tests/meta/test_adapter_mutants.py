"""Every check of the adapter contract notices the mistake that it is there for."""

from __future__ import annotations

import types
from dataclasses import replace

import peft
import pytest
import tk_demo_adapter
import torch
from mutation import Mutants
from tk_demo_adapter import ADAPTER, Options

from tkernel import hookimpl
from tkernel.testing import AdapterContract

MUTANTS = Mutants(AdapterContract, trained=r"lora_|modules_to_save")


class Changed:
    """The right adapter; a mutant overrides `change`, or the call."""

    name, Options = "demo", Options

    @hookimpl
    def adapt(self, bundle, request):
        return self.change(ADAPTER.adapt(bundle, request), request)

    def change(self, bundle, request):
        return bundle


def lora_parameters(bundle, part):
    return [p for name, p in bundle.module.named_parameters() if f"lora_{part}" in name]


def trains_anew(request):
    return request.trainable and not request.adapters


@MUTANTS.breaks("test_it_is_the_identity_at_start")
class StartsWithNoise(Changed):
    def change(self, bundle, request):
        if trains_anew(request):
            generator = torch.Generator().manual_seed(request.seed)
            with torch.no_grad():
                for parameter in lora_parameters(bundle, "B"):
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
        return bundle


@MUTANTS.breaks(
    "test_it_trains_what_it_declares",
    "test_trained_weights_are_held_in_float32",
    "test_a_saved_result_loads_with_the_same_logits",
    "test_training_resumes_from_a_saved_result",
)
class TrainsTheNormsToo(Changed):
    def change(self, bundle, request):
        if trains_anew(request) and not request.new_tokens:
            for name, parameter in bundle.module.named_parameters():
                if name.endswith("model.norm.weight"):
                    parameter.requires_grad_(True)
        return bundle


@MUTANTS.breaks("test_every_trainable_parameter_is_used")
class AddsAnUnusedParameter(Changed):
    def change(self, bundle, request):
        if trains_anew(request):
            bundle.module.register_parameter("lora_unused", torch.nn.Parameter(torch.ones(1)))
        return bundle


@MUTANTS.breaks("test_frozen_parameters_do_not_move", "test_training_resumes_from_a_saved_result")
class DecaysTheBase(Changed):
    def change(self, bundle, request):
        def decay(module, *_):
            if module.training and torch.is_grad_enabled():
                with torch.no_grad():
                    module.model.lm_head.weight.mul_(1.0 + 1e-6)

        if trains_anew(request):
            bundle.module.base_model.register_forward_pre_hook(decay)
        return bundle


@MUTANTS.breaks("test_the_loss_falls", "test_training_resumes_from_a_saved_result")
class ClimbsTheGradient(Changed):
    def change(self, bundle, request):
        for parameter in bundle.module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.neg)
        return bundle


@MUTANTS.breaks(
    "test_a_saved_result_loads_with_the_same_logits",
    "test_embeddings_of_new_tokens_are_trained_and_saved",
)
class LoadsAtHalfStrengthForInference(Changed):
    def change(self, bundle, request):
        if not request.trainable:
            with torch.no_grad():
                for parameter in lora_parameters(bundle, "B"):
                    parameter.mul_(0.5)
        return bundle


@MUTANTS.breaks("test_training_resumes_from_a_saved_result")
class ResumesFrozen(Changed):
    def change(self, bundle, request):
        if request.adapters:
            bundle.module.requires_grad_(False)
        return bundle


@MUTANTS.breaks("test_merging_changes_nothing")
class MergesTwice(Changed):
    def change(self, bundle, request):
        def merge_and_unload(module):
            for name, layer in module.named_modules():
                if name.endswith("q_proj"):
                    layer.base_layer.weight.data += layer.get_delta_weight("default")
            return peft.PeftModel.merge_and_unload(module)

        if trains_anew(request):
            bundle.module.merge_and_unload = types.MethodType(merge_and_unload, bundle.module)
        return bundle


@MUTANTS.breaks("test_for_inference_nothing_is_trainable")
class TrainsDuringInference(Changed):
    @hookimpl
    def adapt(self, bundle, request):
        return ADAPTER.adapt(bundle, replace(request, trainable=True))


@MUTANTS.breaks("test_the_seed_decides_the_start")
class DrawsFromTheGlobalGenerator(Changed):
    @hookimpl
    def adapt(self, bundle, request):
        return ADAPTER.adapt(bundle, replace(request, seed=int(torch.randint(10**6, ()))))


@MUTANTS.breaks("test_an_unknown_target_is_an_error")
class IgnoresUnknownTargets(Changed):
    @hookimpl
    def adapt(self, bundle, request):
        if request.options.demo_target == "no_such_layer":
            request = replace(request, options=Options())
        return ADAPTER.adapt(bundle, request)


@MUTANTS.breaks("test_embeddings_of_new_tokens_are_trained_and_saved")
class IgnoresNewTokens(Changed):
    @hookimpl
    def adapt(self, bundle, request):
        return ADAPTER.adapt(bundle, replace(request, new_tokens=()))


@MUTANTS.breaks("test_trained_weights_are_held_in_float32")
class TrainsInBfloat16(Changed):
    def change(self, bundle, request):
        if request.arguments.get("bf16"):
            bundle.module.to(torch.bfloat16)
        return bundle


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_adapter.Adapter):
    def adapt(self, *arguments):
        return super().adapt(*arguments)


MUTANTS.add("heavy_plugins:ADAPTER", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_adapter_passes():
    assert MUTANTS.failing("tk_demo_adapter:ADAPTER") == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}

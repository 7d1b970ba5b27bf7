"""Every check of the model contract notices the mistake that it is there for."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import tk_demo_model
import torch
from mutation import Mutants
from tk_demo_model import MODEL, Options
from transformers import AutoConfig, AutoModelForCausalLM

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.testing import ModelContract, tiny

MUTANTS = Mutants(ModelContract)


class Changed:
    """The right plugin; a mutant overrides `change`, or the call."""

    name, Options = "demo", Options
    default_template = "auto"
    lora_targets = ("q_proj",)

    @hookimpl
    def load_model(self, request):
        return self.change(MODEL.load_model(request), request)

    def change(self, bundle, request):
        return bundle


@MUTANTS.breaks("test_logits_are_finite_and_of_the_vocabulary")
class DividesByZero(Changed):
    def change(self, bundle, request):
        def spoil(module, args, output):
            output.logits = output.logits / 0.0

        bundle.module.register_forward_hook(spoil)
        return bundle


@MUTANTS.breaks("test_the_weights_are_those_of_the_files")
class RoundsToHalfPrecision(Changed):
    def change(self, bundle, request):
        with torch.no_grad():
            for parameter in bundle.module.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
        return bundle


@MUTANTS.breaks("test_a_saved_bundle_loads_with_the_same_bits", "test_the_weights_are_those_of_the_files")
class ScalesTheHeadEachTime(Changed):
    def change(self, bundle, request):
        with torch.no_grad():
            bundle.module.lm_head.weight.mul_(1.5)
        return bundle


@MUTANTS.breaks("test_the_dtype_is_the_one_asked_for")
class AlwaysFp32(Changed):
    def change(self, bundle, request):
        return bundle.replace(module=bundle.module.float())


@MUTANTS.breaks("test_the_tokenizer_is_the_one_of_the_folder")
class LosesASpecialToken(Changed):
    def change(self, bundle, request):
        kept = tuple(token for token in tiny.SPECIAL_TOKENS if token != "<image>")
        return bundle.replace(tokenizer=tiny.make_tokenizer((*kept, "<|picture|>")))


@MUTANTS.breaks("test_without_weights_the_tokenizer_is_the_same")
class AddsATokenOnlyWithoutWeights(Changed):
    def change(self, bundle, request):
        if request.weights:
            return bundle
        bundle.tokenizer.add_tokens(["<new>"])
        return bundle.replace(new_tokens=(len(bundle.tokenizer) - 1,))


@MUTANTS.breaks("test_scoring_roles_are_frozen_and_compute_the_same")
class TrainsTheReference(Changed):
    def change(self, bundle, request):
        bundle.module.requires_grad_(True)
        return bundle


@MUTANTS.breaks("test_the_mode_is_the_one_asked_for")
class AlwaysInEvalMode(Changed):
    def change(self, bundle, request):
        bundle.module.eval()
        return bundle


@MUTANTS.breaks("test_facts_travel_with_the_bundle")
class ForgetsTheName(Changed):
    def change(self, bundle, request):
        return bundle.replace(facts=replace(request.facts, name="unknown"))


@MUTANTS.breaks("test_a_multimodal_model_brings_its_processor")
class ATokenizerForAProcessor(Changed):
    def change(self, bundle, request):
        return bundle.replace(processor=bundle.tokenizer)


@MUTANTS.breaks("test_load_kwargs_reach_the_loader")
class IgnoresLoadKwargs(Changed):
    @hookimpl
    def load_model(self, request):
        request.slots.take("load_kwargs")
        return MODEL.load_model(replace(request, slots=type(request.slots)("load_model", ("load_kwargs",))))


@MUTANTS.breaks(
    "test_loading_twice_gives_the_same_model",
    "test_the_weights_are_those_of_the_files",
    "test_a_saved_bundle_loads_with_the_same_bits",
    "test_scoring_roles_are_frozen_and_compute_the_same",
)
class InitialisesTheHeadAnew(Changed):
    def change(self, bundle, request):
        torch.nn.init.normal_(bundle.module.lm_head.weight)
        return bundle


def without_weights(folder):
    return not list(folder.glob("*.safetensors"))


@MUTANTS.breaks("test_missing_weights_are_an_error")
class MakesWeightsUp(Changed):
    @hookimpl
    def load_model(self, request):
        folder = Path(request.facts.location)
        if without_weights(folder) and not (folder / "pytorch_model.bin").exists():
            module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
            tiny.make_tokenizer().save_pretrained(folder)
            module.save_pretrained(folder)
        return super().load_model(request)


@MUTANTS.breaks("test_pickled_weights_are_refused")
class ReadsPickles(Changed):
    @hookimpl
    def load_model(self, request):
        folder = Path(request.facts.location)
        if without_weights(folder) and (folder / "pytorch_model.bin").exists():
            AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
        return super().load_model(request)


@MUTANTS.breaks("test_code_of_the_checkpoint_is_not_executed")
class RunsRemoteCode(Changed):
    @hookimpl
    def load_model(self, request):
        for file in Path(request.facts.location).glob("*.py"):
            spec = importlib.util.spec_from_file_location(file.stem, file)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            raise TkError("the code of the checkpoint has no model")
        return super().load_model(request)


@MUTANTS.breaks("test_lora_targets_name_linear_layers")
class MisspeltTargets(Changed):
    lora_targets = ("query_proj",)


@MUTANTS.breaks("test_the_defaults_that_it_names_are_installed")
class NamesATemplateThatIsNotThere(Changed):
    default_template = "no_such_template"


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_model.Model):
    def load_model(self, *arguments):
        return super().load_model(*arguments)


MUTANTS.add("heavy_plugins:MODEL", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_model_passes():
    assert MUTANTS.failing("tk_demo_model:MODEL") == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}

"""Every check of the stage contract notices the mistake that it is there for."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import tk_demo_stage
import torch
from mutation import Mutants
from tk_demo_stage import Stage

from tkernel import StageResult, hookimpl
from tkernel.testing import StageContract

MUTANTS = Mutants(StageContract, log_file="log.jsonl", log_fields=("current_steps", "total_steps", "loss"))


class Changed(Stage):
    """The right stage; a mutant overrides what it changes."""

    def with_arguments(self, request, **arguments):
        return replace(request, arguments={**request.arguments, **arguments})


@MUTANTS.breaks(
    "test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch",
    "test_a_step_follows_the_gradient_of_that_loss",
    "test_the_weights_of_messages_scale_their_tokens",
    "test_every_row_is_used_once_an_epoch",
    "test_the_evaluation_loss_is_the_mean_over_its_tokens",
    "test_masked_positions_have_no_gradient",
)
class LearnsThePrompt(Changed):
    def encode(self, request, loaded):
        return [(ids, ids, torch.ones(ids.shape[1])) for ids, *_ in super().encode(request, loaded)]


@MUTANTS.breaks(
    "test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch",
    "test_a_step_follows_the_gradient_of_that_loss",
    "test_the_weights_of_messages_scale_their_tokens",
)
class MeanOfMeans(Changed):
    def step(self, module, batch, custom):
        if custom is not None:
            return super().step(module, batch, custom)
        losses = [super(MeanOfMeans, self).step(module, [sample], None) for sample in batch]
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(batch)
        return sum(losses) / len(batch)


@MUTANTS.breaks("test_the_weights_of_messages_scale_their_tokens")
class ForgetsTheWeights(Changed):
    def encode(self, request, loaded):
        samples = super().encode(request, loaded)
        return [(ids, labels, (weights > 0).float()) for ids, labels, weights in samples]


@MUTANTS.breaks("test_masked_positions_have_no_gradient")
class PullsAtThePrompt(Changed):
    def step(self, module, batch, custom):
        loss = super().step(module, batch, custom)
        for ids, *_ in batch if custom is None else ():
            (1e-9 * module(input_ids=ids).logits[:, 0].sum()).backward()
        return loss


@MUTANTS.breaks("test_the_side_of_padding_does_not_matter")
class PadsWithoutAMask(Changed):
    def encode(self, request, loaded):
        left = request.bundle.tokenizer.padding_side == "left"
        size = (5, 0) if left else (0, 5)
        fill = torch.nn.functional.pad
        return [
            (fill(ids, size, value=3), fill(labels, size, value=-100), fill(weights, size))
            for ids, labels, weights in super().encode(request, loaded)
        ]


@MUTANTS.breaks("test_nothing_to_train_on_is_an_error")
class IsContentWithNothing(Changed):
    @hookimpl
    def train_stage(self, request):
        if request.train:
            return super().train_stage(request)
        request.slots.take("callbacks")
        return StageResult(request.bundle, request.output_dir)


@MUTANTS.breaks("test_the_split_into_micro_batches_does_not_matter")
class SumsOverAccumulatedSteps(Changed):
    @hookimpl
    def train_stage(self, request):
        self.accumulated = request.arguments.get("gradient_accumulation_steps", 1)
        return super().train_stage(request)

    def step(self, module, batch, custom):
        return super().step(module, batch, custom) * self.accumulated


@dataclass(frozen=True)
class PackingOptions:
    neat_packing: bool = False


@MUTANTS.breaks(
    "test_samples_that_share_a_row_do_not_see_each_other",
    # Whole batches become one row, so a log between two steps counts other tokens after resuming.
    "test_a_resumed_run_is_the_uninterrupted_one_however_samples_are_batched",
)
class PacksWithoutSeparation(Changed):
    Options = PackingOptions

    def encode(self, request, loaded):
        samples = super().encode(request, loaded)
        if not samples or not request.options.neat_packing:
            return samples
        ids, labels, weights = zip(*samples, strict=True)
        return [(torch.cat(ids, dim=1), torch.cat(labels, dim=1), torch.cat(weights))]


@MUTANTS.breaks("test_a_step_follows_the_gradient_of_that_loss")
class HalvesTheGradient(Changed):
    def step(self, module, batch, custom):
        loss = super().step(module, batch, custom)
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.5
        return loss


@MUTANTS.breaks("test_the_loss_slot_replaces_the_loss")
class IgnoresTheLossSlot(Changed):
    def step(self, module, batch, custom):
        return super().step(module, batch, None)


@MUTANTS.breaks("test_frozen_parameters_do_not_move", "test_the_loss_slot_replaces_the_loss")
class DecaysWhatIsFrozen(Changed):
    def step(self, module, batch, custom):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.0 if parameter.requires_grad else 1.0 - 1e-6)
        return super().step(module, batch, custom)


@MUTANTS.breaks("test_resuming_reproduces_the_uninterrupted_run")
class RestartsTheSchedule(Changed):
    @hookimpl
    def train_stage(self, request):
        self.start = 2 if request.arguments.get("resume_from_checkpoint") else 0
        return super().train_stage(request)

    def schedule(self, arguments, step, steps):
        return super().schedule(arguments, step - self.start, steps)


@MUTANTS.breaks("test_a_resumed_run_is_the_uninterrupted_one_however_samples_are_batched")
class DrawsDropoutAnew(Changed):
    @hookimpl
    def train_stage(self, request):
        self.resumed = bool(request.arguments.get("resume_from_checkpoint"))
        return super().train_stage(request)

    def step(self, module, batch, custom):
        if self.resumed:
            torch.manual_seed(0)
            self.resumed = False
        return super().step(module, batch, custom)


@MUTANTS.breaks(
    "test_the_seed_decides_everything",
    "test_resuming_reproduces_the_uninterrupted_run",
    "test_a_resumed_run_is_the_uninterrupted_one_however_samples_are_batched",
    "test_evaluation_changes_nothing",
)
class ShufflesWithTheGlobalGenerator(Changed):
    @hookimpl
    def train_stage(self, request):
        return super().train_stage(replace(request, seed=int(torch.randint(10**6, ()))))


@MUTANTS.breaks("test_every_row_is_used_once_an_epoch")
class DropsTheLastRow(Changed):
    def encode(self, request, loaded):
        encoded = super().encode(request, loaded)
        return encoded[:-1] * 2 if request.arguments.get("num_train_epochs") else encoded

    @hookimpl
    def train_stage(self, request):
        if request.arguments.get("num_train_epochs"):
            request = self.with_arguments(request, max_steps=8)
        return super().train_stage(request)


@MUTANTS.breaks("test_the_evaluation_loss_is_the_mean_over_its_tokens")
class EvaluatesTheFirstRow(Changed):
    def evaluate(self, module, rows):
        return super().evaluate(module, rows[:1])


@MUTANTS.breaks("test_evaluation_changes_nothing")
class TrainsWhileEvaluating(Changed):
    def evaluate(self, module, rows):
        loss = super().evaluate(module, rows)
        with torch.no_grad():
            module.model.norm.weight.mul_(1.001)
        return loss


@MUTANTS.breaks("test_the_result_is_saved_and_loads")
class SavesARoundedModel(Changed):
    def save(self, request, folder):
        module = request.bundle.module
        state = {name: value.to(torch.bfloat16) for name, value in module.state_dict().items()}
        module.save_pretrained(folder, state_dict=state)
        request.bundle.tokenizer.save_pretrained(folder)


@MUTANTS.breaks("test_steps_and_metrics_are_those_of_the_run")
class CountsMicroBatches(Changed):
    @hookimpl
    def train_stage(self, request):
        result = super().train_stage(request)
        return replace(result, steps=result.steps * 4)


@MUTANTS.breaks("test_the_log_has_its_fields")
class LogsNoTotal(Changed):
    @hookimpl
    def train_stage(self, request):
        result = super().train_stage(request)
        file = result.output_dir / "log.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**line, "total_steps": None}) + "\n" for line in lines))
        return result


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_stage.Stage):
    def train_stage(self, *arguments):
        return super().train_stage(*arguments)


MUTANTS.add("heavy_plugins:STAGE", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_stage_passes():
    assert MUTANTS.failing("tk_demo_stage:STAGE") == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}

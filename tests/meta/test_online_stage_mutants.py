"""Every check of the contract of online stages notices the mistake that it is there for."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from mutation import Mutants

from tkernel import StageResult, hookimpl
from tkernel.testing import OnlineStageContract
from tkernel_plugins.stages.grpo import GroupRelative
from tkernel_plugins.training.online.grpo import GrpoTrainer
from tkernel_plugins.training.online.run import run_group
from tkernel_plugins.training.online.trainer import OnlineTrainer

pytestmark = pytest.mark.slow

MUTANTS = Mutants(OnlineStageContract, **GroupRelative.contract)


class Changed(GroupRelative):
    """The right stage with a trainer that a mutant changes."""

    trainer = GrpoTrainer

    @hookimpl
    def train_stage(self, request):
        return run_group(self.trainer, request)


@MUTANTS.breaks("test_nothing_to_train_on_is_an_error")
class IsContentWithNothing(Changed):
    @hookimpl
    def train_stage(self, request):
        if request.train:
            return super().train_stage(request)
        request.slots.take("callbacks")
        return StageResult(request.bundle, request.output_dir)


@MUTANTS.breaks("test_the_engine_is_asked_with_the_prompts_alone")
class AsksTheFirstPromptAlone(Changed):
    class trainer(GrpoTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.order = replace(self.order, prompts=1)


@MUTANTS.breaks("test_the_policy_of_the_moment_generates", "test_resuming_reproduces_the_uninterrupted_run")
class GeneratesWithOldWeights(Changed):
    class trainer(GrpoTrainer):
        old = None

        def generating(self, module):
            self.old = self.old or copy.deepcopy(module)
            return self.old


@MUTANTS.breaks("test_better_completions_become_more_probable")
class PrefersTheWorse(Changed):
    class trainer(GrpoTrainer):
        def advantages(self, rewards, generations):
            return -super().advantages(rewards, generations)


@MUTANTS.breaks("test_equal_rewards_teach_nothing", "test_a_change_of_all_rewards_alike_changes_nothing")
class HasNoBaseline(Changed):
    class trainer(GrpoTrainer):
        def advantages(self, rewards, generations):
            return rewards


@MUTANTS.breaks("test_a_change_of_all_rewards_alike_changes_nothing")
class DoesNotScale(Changed):
    class trainer(GrpoTrainer):
        def advantages(self, rewards, generations):
            groups = rewards.view(-1, generations)
            return (groups - groups.mean(1, keepdim=True)).view(-1)


@MUTANTS.breaks("test_the_split_into_micro_batches_does_not_matter")
class TakesTheMeanOfEachMicroBatch(Changed):
    class trainer(GrpoTrainer):
        def batch_loss(self, model, inputs, items):
            return super().batch_loss(model, inputs, inputs["mask"].sum())


@MUTANTS.breaks(
    "test_frozen_parameters_do_not_move",
    "test_equal_rewards_teach_nothing",
    "test_the_policy_of_the_moment_generates",
)
class DecaysWhatIsFrozen(Changed):
    class trainer(GrpoTrainer):
        def get_batch_samples(self, *args):
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.mul_(1.0 if parameter.requires_grad else 1.0 - 1e-9)
            return super().get_batch_samples(*args)


@MUTANTS.breaks("test_resuming_reproduces_the_uninterrupted_run")
class ForgetsWhatIsLeftOfARollout(Changed):
    class trainer(GrpoTrainer):
        def go_on(self, checkpoint):
            super(OnlineTrainer, self).go_on(checkpoint)


@MUTANTS.breaks(
    "test_the_seed_decides_everything",
    "test_resuming_reproduces_the_uninterrupted_run",
    "test_evaluation_changes_nothing",
    "test_the_split_into_micro_batches_does_not_matter",
    "test_a_change_of_all_rewards_alike_changes_nothing",
)
class DrawsWithoutASeed(Changed):
    class trainer(GrpoTrainer):
        def _seed(self, what, *numbers):
            return random.SystemRandom().getrandbits(31)


@MUTANTS.breaks("test_evaluation_changes_nothing")
class LearnsFromEvaluations(Changed):
    class trainer(GrpoTrainer):
        def rollout(self, rows, generations, what, number):
            if what == "eval":
                with torch.no_grad():
                    next(self.model.parameters()).add_(1e-6)
            return super().rollout(rows, generations, what, number)


@MUTANTS.breaks("test_the_kernel_accepts_it")
class IsNoHook(Changed):
    def train_stage(self, request):
        return run_group(self.trainer, request)


MUTANTS.add("heavy_online:STAGE", "test_importing_the_plugin_imports_nothing_heavy")


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check_and_no_other(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}

"""What only pairs and judged completions can show is noticed; the other checks are those of `StageContract`."""

from __future__ import annotations

import pytest
import torch
from mutation import Mutants
from plain_feedback import FeedbackStage
from plain_preference import PreferenceStage

from tkernel.testing import FeedbackStageContract, PreferenceStageContract

SUITE = {"log_file": "log.jsonl", "log_fields": ("current_steps", "total_steps", "loss")}
PAIRS = Mutants(PreferenceStageContract, **SUITE)
FEEDBACK = Mutants(FeedbackStageContract, **SUITE)

LOSS = (
    "test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch",
    "test_a_step_follows_the_gradient_of_that_loss",
    "test_the_weights_of_messages_scale_their_tokens",
    "test_every_row_is_used_once_an_epoch",
    "test_the_evaluation_loss_is_the_mean_over_its_tokens",
)


@PAIRS.breaks(
    "test_the_reference_stays_as_it_is",
    "test_resuming_reproduces_the_uninterrupted_run",
    "test_a_resumed_run_is_the_uninterrupted_one_however_samples_are_batched",
)
class MovesTheReference(PreferenceStage):
    def step(self, module, batch, custom):
        loss = super().step(module, batch, custom)
        with torch.no_grad():
            self.reference.model.norm.weight.mul_(1.0 + 1e-6)
        return loss


@PAIRS.breaks("test_swapped_pairs_flip_the_margin")
class LogsTheDistance(PreferenceStage):
    def logged(self, loss):
        return {name: abs(value) for name, value in super().logged(loss).items()}


@PAIRS.breaks(LOSS[0], *LOSS[1:])
class ForgetsTheReference(PreferenceStage):
    def margin(self, module, pair):
        chosen, rejected = (self.logp(module, *side) for side in pair)
        return chosen - rejected


@PAIRS.breaks(LOSS[0], *LOSS[1:])
class TakesMeansOverTokens(PreferenceStage):
    def logp(self, module, ids, labels, weights):
        return super().logp(module, ids, labels, weights) / weights[1:].sum()


@FEEDBACK.breaks(LOSS[0], *LOSS[1:], "test_swapped_pairs_flip_the_margin")
class LikesEverything(FeedbackStage):
    def encode(self, request, loaded):
        return [(own, other, True) for own, other, _ in super().encode(request, loaded)]


@FEEDBACK.breaks("test_a_step_follows_the_gradient_of_that_loss")
class LearnsTheDivergence(FeedbackStage):
    def losses(self, module, batch):
        detached = super().losses(module, batch)
        kl = torch.stack([self.ratio(module, other) for _, other, _ in batch]).mean()
        return [loss + 0.1 * (kl - kl.detach()) for loss in detached]


@pytest.mark.slow
@pytest.mark.parametrize(("mutants", "stage"), [(PAIRS, PreferenceStage()), (FEEDBACK, FeedbackStage())])
def test_the_right_stage_passes(mutants, stage):
    assert mutants.failing(stage) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutants", "mutant"),
    [pytest.param(m, mutant, id=type(mutant.plugin).__name__) for m in (PAIRS, FEEDBACK) for mutant in m.all],
)
def test_the_mistake_fails_its_check_and_no_other(mutants, mutant):
    found = mutants.failing(mutant.plugin, **mutant.suite)
    assert mutant.check in found
    assert found <= {mutant.check, *mutant.also}


def test_every_check_of_pairs_alone_has_a_mutant():
    own = {name for name in vars(PreferenceStageContract) if name.startswith("test_")}
    assert own - {"test_the_loss_slot_replaces_the_loss"} <= {mutant.check for mutant in PAIRS.all}

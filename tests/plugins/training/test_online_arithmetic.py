"""Advantages, losses and penalties of the online stages in closed form, in float64, and against TRL's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl_kit import like_trl

from tkernel.testing import tiny
from tkernel_plugins.stages.grpo import Options
from tkernel_plugins.training.online.grpo import group_advantages, policy_loss
from tkernel_plugins.training.online.ppo import (
    KlControl,
    RunningScores,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    moments,
    token_rewards,
    whitened,
)
from tkernel_plugins.training.online.rloo import leave_one_out, sequence_loss
from tkernel_plugins.training.online.samples import batch_of, completion_logits, entropy_of, logps_of

numbers = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=8, max_size=8)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- advantages ------------------------------------------------------------------------------------


@given(numbers, st.sampled_from(["group", "batch", "none"]))
def test_the_advantages_of_a_group_sum_to_0(rewards, scale):
    found = group_advantages(torch.tensor(rewards, dtype=torch.float64), 4, scale)
    assert found.view(2, 4).sum(1).abs().max() < 1e-9


@given(numbers, st.floats(0.5, 4), st.floats(-9, 9))
def test_an_affine_change_of_the_rewards_changes_no_advantage(rewards, factor, offset):
    given_ = torch.tensor(rewards, dtype=torch.float64)
    spread = given_.view(2, 4).std(1).min()
    found, changed = group_advantages(given_, 4), group_advantages(factor * given_ + offset, 4)
    # The constant that keeps a division by 0 away is all that is left of the scale.
    assert (found - changed).abs().max() <= 10 * 1e-4 / max(float(spread), 1e-4)
    exact = group_advantages(given_, 4, "none")
    torch.testing.assert_close(group_advantages(given_ + offset, 4, "none"), exact, rtol=0, atol=1e-12)


def test_a_completion_without_a_reward_counts_in_no_mean():
    rewards = torch.tensor([1.0, math.nan, 3.0, 2.0, math.nan, math.nan, math.nan, math.nan])
    assert group_advantages(rewards, 4, "none").tolist() == [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert leave_one_out(rewards, 4).tolist() == [-1.5, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0]


@given(numbers)
def test_the_baseline_of_a_completion_is_the_mean_of_the_others(rewards):
    given_ = torch.tensor(rewards, dtype=torch.float64)
    found = leave_one_out(given_, 4)
    others = given_[1:4].mean()
    assert found[0] == pytest.approx(float(given_[0] - others), abs=1e-12)
    torch.testing.assert_close(found, group_advantages(given_, 4, "none") * 4 / 3)


# -- losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [-1.5, 2.0])
def test_at_ratio_1_the_clipped_objective_is_the_plain_policy_gradient(advantage):
    logps = drawn(3, 5).requires_grad_()
    advantages = torch.full_like(logps, advantage)
    loss, clipped = clipped_policy_loss(logps, logps.detach(), advantages, 0.2)
    loss.sum().backward()
    assert logps.grad.equal(-advantages)
    assert not clipped.any()
    for kind in ("grpo", "cispo", "sapo", "vespo"):
        again = logps.detach().clone().requires_grad_()
        options = Options(loss_type=kind, epsilon_high=5.0 if kind == "cispo" else None)
        loss, _ = policy_loss(again, logps.detach(), advantages[:, 0], torch.ones_like(again), options)
        loss.sum().backward()
        torch.testing.assert_close(again.grad, -advantages, msg=kind)


def test_beyond_the_clip_there_is_no_gradient_where_the_objective_would_gain():
    far = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss, clipped = clipped_policy_loss(far, torch.zeros_like(far), advantages, 0.2)
    loss.sum().backward()
    assert clipped.tolist() == [True, False, False, True]
    assert far.grad.tolist() == pytest.approx([0, math.exp(0.5), -math.exp(-0.5), 0])


def test_the_divergence_from_the_reference_is_not_negative_and_0_for_equals():
    logps, other, mask = drawn(3, 5), drawn(3, 5, seed=1), torch.ones(3, 5, dtype=torch.float64)
    nothing = torch.zeros(3, dtype=torch.float64)
    _, noted = policy_loss(logps, logps, nothing, mask, Options(beta=0.5), other)
    assert (noted["kl"] > 0).all()
    loss, noted = policy_loss(logps, logps, nothing, mask, Options(beta=0.5), logps)
    assert (noted["kl"] == 0).all()
    assert (loss == 0).all()


def test_values_move_within_the_clip():
    values = torch.tensor([0.1, 2.0], dtype=torch.float64, requires_grad=True)
    loss, clipped = clipped_value_loss(values, torch.zeros(2), torch.tensor([0.5, 5.0]), 0.2)
    assert loss.tolist() == pytest.approx([0.5 * 0.4**2, 0.5 * 4.8**2])
    loss.sum().backward()
    assert values.grad.tolist() == pytest.approx([-0.4, 0.0])
    assert clipped.tolist() == [False, True]


# -- PPO's rewards ---------------------------------------------------------------------------------


def test_the_score_is_at_the_last_token_and_the_penalty_at_each():
    logps, reference = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -2.0])
    assert token_rewards(4.0, logps, reference, 0.2).tolist() == pytest.approx([-0.1, 0.0, 4.2])


@given(st.floats(0, 1), st.floats(0, 1))
def test_generalised_advantages_are_the_discounted_sum_of_errors(gamma, decay):
    rewards, values = drawn(6), drawn(6, seed=1)
    after = torch.cat([values[1:], torch.zeros(1, dtype=torch.float64)])
    errors = rewards + gamma * after - values
    expected = [sum((gamma * decay) ** (k - t) * errors[k] for k in range(t, 6)) for t in range(6)]
    found = generalised_advantages(rewards, values, gamma, decay)
    torch.testing.assert_close(found, torch.stack(expected))


def test_with_lambda_1_an_advantage_is_the_return_less_the_value():
    rewards, values = drawn(6), drawn(6, seed=1)
    returns = rewards.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(generalised_advantages(rewards, values, 1.0, 1.0), returns - values)


def test_whitened_rows_have_mean_0_and_variance_1_over_all_of_them():
    rows = [drawn(3) * 4 + 2, drawn(8, seed=1) - 1]
    sums = moments(rows[:1]) + moments(rows[1:])  # of two processes
    every = torch.cat(whitened(rows, sums))
    assert every.mean() == pytest.approx(0, abs=1e-9)
    assert every.var(correction=0) == pytest.approx(1, abs=1e-6)
    kept = torch.cat(whitened(rows, sums, shift=False))
    assert kept.mean() == pytest.approx(float(torch.cat(rows).mean()))


@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=5), min_size=2, max_size=4))
def test_running_scores_are_those_of_all_scores_at_once(batches):
    running = RunningScores()
    for batch in batches:
        running.update(moments([torch.tensor(batch, dtype=torch.float64)]))
    every = torch.tensor([score for batch in batches for score in batch], dtype=torch.float64)
    assert running.mean == pytest.approx(float(every.mean()), abs=1e-9)
    assert running.squares / (len(every) - 1) == pytest.approx(float(every.var()), abs=1e-6)


def test_the_weight_of_the_penalty_follows_the_divergence():
    for divergence, expected in ((6.0, 0.2), (60.0, 0.2 * 1.002), (0.0, 0.2 * 0.998), (6.6, 0.2 * 1.001)):
        control = KlControl(0.2, target=6.0, horizon=10000)
        control.update(divergence, 100)
        assert control.weight == pytest.approx(expected)


# -- batches ---------------------------------------------------------------------------------------


def sample(prompt, completion, seed=0, learned=True, **more):
    ids = torch.randint(10, 250, (prompt + completion,), generator=torch.Generator().manual_seed(seed))
    given_ = {"prompt": ids[:prompt].tolist(), "completion": ids[prompt:].tolist(), "learned": learned}
    return {**given_, "origin": {}, **more}


def test_log_probabilities_are_those_of_each_completion_alone():
    model = tiny.make_model().double()
    samples = [sample(5, 4), sample(2, 7, seed=1), sample(9, 1, seed=2)]
    batch = batch_of(samples, padding=3)
    found = logps_of(completion_logits(model, batch), batch, temperature=0.7)
    for row, one in enumerate(samples):
        ids = [*one["prompt"], *one["completion"]]
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1] / 0.7
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        own = found[row][batch["mask"][row].bool()]
        torch.testing.assert_close(own, expected[len(one["prompt"]) - 1 :])


def test_prompts_padding_and_masked_completions_have_no_gradient():
    model = tiny.make_model().double()
    samples = [sample(5, 4), sample(2, 6, seed=1), sample(3, 5, seed=2, learned=False)]
    batch = batch_of(samples, padding=3)
    logits = completion_logits(model, batch)
    logits.retain_grad()
    logps = logps_of(logits, batch)
    advantages = torch.ones(3, dtype=torch.float64)
    loss, _ = policy_loss(logps, logps.detach(), advantages, batch["mask"].double(), Options())
    (loss * batch["mask"]).sum().backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, batch["mask"].bool())
    assert batch["mask"].sum(1).tolist() == [4, 6, 0]


def test_the_entropy_of_even_distributions_is_the_logarithm_of_their_size():
    logits = torch.zeros(1, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(entropy_of(logits), torch.full((1, 2), math.log(16), dtype=torch.float64))


# -- TRL -------------------------------------------------------------------------------------------


class Metrics(dict):
    def __missing__(self, key):
        return self.setdefault(key, [])


def trl_loss(module, name, options, tensors, **more):
    """The loss of a TRL trainer's own `_compute_loss` on given log-probabilities, without its constructor."""
    cls = getattr(pytest.importorskip(f"trl.trainer.{module}"), name)
    trainer = cls.__new__(cls)
    accelerator = SimpleNamespace(
        gather=lambda tensor: tensor,
        reduce=lambda tensor, reduction: tensor,
        num_processes=1,
        sync_gradients=True,
    )
    given_ = {
        "args": SimpleNamespace(
            delta=options.delta,
            use_bias_correction_kl=options.use_bias_correction_kl,
            sapo_temperature_pos=options.sapo_temperature_pos,
            sapo_temperature_neg=options.sapo_temperature_neg,
            vespo_k_pos=options.vespo_k_pos,
            vespo_lambda_pos=options.vespo_lambda_pos,
            vespo_k_neg=options.vespo_k_neg,
            vespo_lambda_neg=options.vespo_lambda_neg,
            steps_per_generation=1,
        ),
        "beta": options.beta,
        "epsilon_low": options.epsilon,
        "epsilon_high": options.epsilon if options.epsilon_high is None else options.epsilon_high,
        "loss_type": options.loss_type,
        "importance_sampling_level": options.importance_sampling_level,
        "max_completion_length": options.max_completion_length,
        "off_policy_mask_threshold": None,
        "top_entropy_quantile": 1.0,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "_entropy_bonus_enabled": False,
        "aux_loss_enabled": False,
        "current_gradient_accumulation_steps": 1,
        "model": SimpleNamespace(training=True),
        "accelerator": accelerator,
        "_metrics": {"train": Metrics(), "eval": Metrics()},
        "_get_per_token_logps_and_entropies": lambda *_, **__: (tensors["logps"], tensors["logps"], None),
    }
    trainer.__dict__.update(given_)
    mask = tensors["mask"]
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 2, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 2),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "num_items_in_batch": mask.sum(),
        **more,
    }
    return trainer._compute_loss(None, inputs)


def tensors():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]).double()
    logps = (drawn(4, 5) - 3).requires_grad_()
    return {
        "logps": logps,
        "old": (logps + 0.4 * drawn(4, 5, seed=1)).detach(),
        "reference": (logps + 0.4 * drawn(4, 5, seed=2)).detach(),
        "advantages": drawn(4, seed=3),
        "mask": mask,
    }


GRPO = [
    *({"loss_type": kind} for kind in ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")),
    {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    {"beta": 0.3, "use_bias_correction_kl": True, "epsilon_high": 0.3, "delta": 1.5},
    {"beta": 0.3, "loss_type": "grpo"},
]


@like_trl
@pytest.mark.parametrize("changes", GRPO, ids=str)
def test_losses_and_gradients_are_those_of_trls_grpo(changes):
    from tkernel_plugins.training.online.grpo import GrpoTrainer

    options = Options(**changes, max_completion_length=9)
    given_ = tensors()
    theirs = trl_loss("grpo_trainer", "GRPOTrainer", options, given_)
    (expected,) = torch.autograd.grad(theirs, given_["logps"])
    mask, reference = given_["mask"], given_["reference"] if options.beta else None
    loss, _ = policy_loss(given_["logps"], given_["old"], given_["advantages"], mask, options, reference)
    trainer = GrpoTrainer.__new__(GrpoTrainer)
    trainer.options = options
    rows = (loss * mask).sum(1)
    rows = rows / mask.sum(1) if options.loss_type in ("grpo", "sapo") else rows
    ours = rows.sum() / trainer.items_of({"mask": mask})
    (found,) = torch.autograd.grad(ours, given_["logps"])
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@like_trl
def test_losses_and_gradients_are_those_of_trls_rloo():
    options, given_ = Options(epsilon=0.2, epsilon_high=0.3), tensors()
    mask = given_["mask"]
    old = (given_["old"] * mask).sum(1)
    theirs = trl_loss("rloo_trainer", "RLOOTrainer", options, given_, old_logps=old)
    (expected,) = torch.autograd.grad(theirs, given_["logps"])
    loss, _ = sequence_loss(given_["logps"], given_["old"], given_["advantages"], mask, 0.2, 0.3)
    (found,) = torch.autograd.grad(loss.mean(), given_["logps"])
    torch.testing.assert_close(loss.mean(), theirs)
    torch.testing.assert_close(found, expected)

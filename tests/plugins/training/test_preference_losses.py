"""The losses over pairs: closed forms, gradients, and TRL's own code on the same log-probabilities."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from trl_kit import like_trl

from tkernel_plugins.training.preference_losses import Pairs, loss_of, odds_ratio
from tkernel_plugins.training.preference_options import LOSSES, REFERENCE_FREE, PreferenceOptions

GENERATOR = torch.Generator().manual_seed(0)
N = 5


def drawn(*, grad=False):
    tokens = torch.randint(3, 9, (2, N), generator=GENERATOR).double()
    logps = [-tokens[side] * torch.rand(N, generator=GENERATOR).double() * 2 - 0.1 for side in (0, 1, 0, 1)]
    chosen, rejected, *reference = (x.requires_grad_(grad) for x in logps)
    return Pairs(chosen, rejected, *(r.detach() for r in reference), *tokens)


def swapped(pairs):
    return Pairs(
        pairs.rejected,
        pairs.chosen,
        pairs.ref_rejected,
        pairs.ref_chosen,
        pairs.rejected_tokens,
        pairs.chosen_tokens,
    )


def trl_loss(name, pairs, options):
    """The loss that TRL's `DPOTrainer` computes of these log-probabilities, spread over the tokens."""
    from trl import DPOTrainer

    lengths = torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]).long()
    longest = int(lengths.max())
    mask = (torch.arange(longest + 1)[None] >= 1) & (torch.arange(longest + 1)[None] <= lengths[:, None])
    sums = torch.cat([pairs.chosen, pairs.rejected])
    per_token = (sums / lengths)[:, None] * mask[:, 1:]
    nothing = torch.zeros_like(per_token)
    outputs = SimpleNamespace(
        log_probs=per_token, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )
    plain = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x, device=torch.device("cpu"))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=plain,
        args=SimpleNamespace(discopop_tau=options.discopop_tau),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=options.pref_beta,
        label_smoothing=options.dpo_label_smoothing,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask, dtype=torch.long),
        "attention_mask": torch.ones_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
        "ref_chosen_logps": pairs.ref_chosen,
        "ref_rejected_logps": pairs.ref_rejected,
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)


@like_trl
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"orpo", "simpo", "kto_pair", "sft"}))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_and_its_gradient_are_those_of_trl(name, smoothing):
    if smoothing and name == "sigmoid":
        pytest.skip("TRL's `sigmoid` has no smoothing any more; cDPO has a test of its own")
    options = PreferenceOptions(
        pref_beta=0.3, dpo_label_smoothing=smoothing or (0.01 if name == "exo_pair" else 0)
    )
    pairs = drawn(grad=True)
    ours, theirs = loss_of(name)(pairs, options).mean(), trl_loss(name, pairs, options)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        *(torch.autograd.grad(loss, (pairs.chosen, pairs.rejected)) for loss in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other)


@like_trl
def test_next_token_loss_is_that_of_trl_where_replies_have_one_length():
    pairs = drawn()
    even = replace(pairs, chosen_tokens=torch.full((N,), 4.0), rejected_tokens=torch.full((N,), 4.0))
    options = PreferenceOptions()
    torch.testing.assert_close(loss_of("sft")(even, options).mean().double(), trl_loss("sft", even, options))


def by_hand(name, pairs, i, beta, gamma, smoothing):
    c, r, rc, rr, nc, nr = (
        float(getattr(pairs, field)[i])
        for field in ("chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_tokens", "rejected_tokens")
    )
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    odds = lambda logp: math.exp(logp) / (1 - math.exp(logp))  # noqa: E731
    h = (c - rc) - (r - rr)
    if name == "sigmoid":
        return -(1 - smoothing) * math.log(sigma(beta * h)) - smoothing * math.log(sigma(-beta * h))
    if name == "orpo":
        return -c / nc - beta * math.log(sigma(math.log(odds(c / nc) / odds(r / nr))))
    return -math.log(sigma(beta * (c / nc - r / nr) - gamma))


@pytest.mark.parametrize("name", ["sigmoid", "orpo", "simpo"])
def test_losses_that_trl_lacks_have_their_closed_form(name):
    options = PreferenceOptions(pref_beta=0.7, simpo_gamma=0.4, dpo_label_smoothing=0.2)
    pairs = drawn()
    expected = [by_hand(name, pairs, i, 0.7, 0.4, 0.2) for i in range(N)]
    assert loss_of(name)(pairs, options).tolist() == pytest.approx(expected, rel=1e-9)


def test_kto_for_pairs_takes_each_sides_divergence_from_the_other_side():
    options, pairs = PreferenceOptions(pref_beta=0.3), drawn()
    chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
    kl_chosen, kl_rejected = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
    halves = torch.cat(
        [1 - torch.sigmoid(0.3 * (chosen - kl_rejected)), 1 - torch.sigmoid(0.3 * (kl_chosen - rejected))]
    )
    torch.testing.assert_close(loss_of("kto_pair")(pairs, options).mean(), halves.mean())


def test_no_gradient_flows_through_the_divergence_of_kto_for_pairs():
    options, pairs = PreferenceOptions(pref_beta=0.3), drawn(grad=True)
    (gradient,) = torch.autograd.grad(loss_of("kto_pair")(pairs, options)[0], pairs.chosen)
    assert gradient[0] != 0
    assert gradient[1:].eq(0).all()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"discopop"}))  # which is not monotone about 0
def test_the_gradient_raises_the_chosen_reply_above_the_rejected_one(name):
    options = PreferenceOptions(dpo_label_smoothing=0.01)
    pairs = drawn(grad=True)
    pairs = replace(pairs, ref_chosen=pairs.chosen.detach(), ref_rejected=pairs.rejected.detach())
    loss = loss_of(name)(pairs, options).sum()
    chosen, rejected = torch.autograd.grad(loss, (pairs.chosen, pairs.rejected), materialize_grads=True)
    assert bool((chosen < rejected).all())


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"sft", "kto_pair"}))
def test_every_loss_has_the_gradient_of_its_values(name):
    options, pairs = PreferenceOptions(dpo_label_smoothing=0.01), drawn(grad=True)

    def value(chosen, rejected):
        return loss_of(name)(replace(pairs, chosen=chosen, rejected=rejected), options)

    torch.autograd.gradcheck(value, (pairs.chosen, pairs.rejected))


def test_swapped_pairs_flip_the_margin():
    pairs = drawn()
    torch.testing.assert_close(swapped(pairs).margin, -pairs.margin)
    torch.testing.assert_close(swapped(pairs).mean_margin, -pairs.mean_margin)
    assert bool((odds_ratio(pairs) != odds_ratio(swapped(pairs))).all())


@pytest.mark.parametrize("name", REFERENCE_FREE)
def test_losses_without_a_reference_do_not_read_it(name):
    pairs, options = drawn(), PreferenceOptions()
    other = replace(pairs, ref_chosen=pairs.ref_chosen - 5, ref_rejected=pairs.ref_rejected * 2)
    torch.testing.assert_close(loss_of(name)(pairs, options), loss_of(name)(other, options))


def test_a_loss_of_ones_own_is_found_by_reference(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def double(pairs, options):\n    return 2 * options.pref_beta * pairs.margin\n"
    )
    pairs = drawn()
    found = loss_of(f"{tmp_path}/mine.py:double")(pairs, PreferenceOptions(pref_beta=0.5))
    torch.testing.assert_close(found, pairs.margin)

"""Stage `distill`: the divergence in closed form, and whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from online_kit import history, train

from tkernel.errors import ConfigError, TkError
from tkernel.testing import tiny
from tkernel_plugins.training.distillation import divergence

ROWS = [{"instruction": f"How much is {n} and 1?", "output": str(n + 1)} for n in range(8)]


def distributions(seed):
    return torch.randn(5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_not_negative_and_0_for_equals_alone(beta, temperature):
    student, teacher = distributions(1), distributions(2)
    assert (divergence(student, teacher, beta, temperature) > 0).all()
    same = divergence(student, student + 3.0, beta, temperature)
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-12)


def test_the_divergence_is_that_of_torch_distributions():
    from torch.distributions import Categorical, kl_divergence

    student, teacher = distributions(1), distributions(2)
    ours, theirs = Categorical(logits=student), Categorical(logits=teacher)
    torch.testing.assert_close(divergence(student, teacher, 0.0), kl_divergence(theirs, ours))
    torch.testing.assert_close(divergence(student, teacher, 1.0), kl_divergence(ours, theirs))
    mixture = Categorical(probs=0.3 * theirs.probs + 0.7 * ours.probs)
    expected = 0.3 * kl_divergence(theirs, mixture) + 0.7 * kl_divergence(ours, mixture)
    torch.testing.assert_close(divergence(student, teacher, 0.3), expected)


def test_the_gradient_of_the_forward_divergence_is_the_difference_of_probabilities():
    student, teacher = distributions(1).requires_grad_(), distributions(2)
    divergence(student, teacher, 0.0, temperature=2.0).sum().backward()
    expected = ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)) / 2
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_the_gradient_is_that_of_finite_differences(beta):
    student, teacher = distributions(1).requires_grad_(), distributions(2)
    assert torch.autograd.gradcheck(lambda logits: divergence(logits, teacher, beta, 1.5), student)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_it_is_the_divergence_of_trl(beta):
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher = distributions(1), distributions(2)
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=1.7, reduction="none"
    )
    torch.testing.assert_close(divergence(student, teacher, beta, 1.7), theirs[0].sum(-1))


@pytest.fixture
def teacher(tmp_path):
    tiny.save_model(tmp_path / "teacher", seed=5)
    return str(tmp_path / "teacher")


def test_a_student_comes_nearer_to_its_teacher(tmp_path, teacher):
    changes = {"learning_rate": 1e-2, "max_steps": 20, "ce_weight": 0.1, "beta": 0.5}
    train(tmp_path, stage="distill", rows=ROWS, teacher_model=teacher, **changes)
    distances = history(tmp_path, "out", "divergence")
    assert distances[-1] < 0.8 * distances[0]


def test_the_perplexity_is_that_of_the_data_and_not_of_the_divergence(tmp_path, teacher):
    asked = {"held_out": ROWS[:3], "max_steps": 2, "compute_accuracy": True}
    result = train(tmp_path, stage="distill", rows=ROWS, teacher_model=teacher, **asked)
    metrics = result.metrics
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_cross_entropy"]))
    assert metrics["eval_cross_entropy"] != pytest.approx(metrics["eval_loss"])
    tuned = {**asked, "max_steps": 1, "learning_rate": 0.0}
    plain = train(tmp_path, name="sft", rows=ROWS, model_name_or_path=str(tmp_path / "out"), **tuned)
    assert plain.metrics["eval_perplexity"] == pytest.approx(metrics["eval_perplexity"], rel=1e-4)


def test_a_model_that_is_its_own_teacher_learns_nothing(tmp_path):
    tiny.save_model(tmp_path / "model")
    own = {"teacher_model": str(tmp_path / "model"), "max_steps": 1}
    train(tmp_path, stage="distill", rows=ROWS, **own)
    assert history(tmp_path, "out", "loss")[0] == pytest.approx(0, abs=1e-6)


def test_a_teacher_with_more_rows_in_its_output_layer_teaches_the_tokens_that_there_are(tmp_path):
    folder = tmp_path / "wide"
    tiny.save_model(folder, seed=5)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(folder)
    result = train(tmp_path, stage="distill", rows=ROWS, teacher_model=str(folder), max_steps=2)
    assert result.metrics["train_loss"] > 0


def test_a_teacher_with_another_vocabulary_is_told_while_planning(tmp_path, teacher):
    other = tiny.make_tokenizer((*tiny.SPECIAL_TOKENS[:-1], "<other>"))
    other.save_pretrained(teacher)
    with pytest.raises(ConfigError, match=r"2 tokens differ, '</tool_response>' among them .*not there"):
        train(tmp_path, stage="distill", rows=ROWS, teacher_model=teacher)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("needs a teacher", {}),
        ("beta must be at most 1", {"beta": 2, "teacher_model": "{teacher}"}),
        ("smooths labels", {"label_smoothing_factor": 0.1, "teacher_model": "{teacher}"}),
        ("There is no model at ./nowhere", {"teacher_model": "./nowhere"}),
    ],
)
def test_what_cannot_be_is_told_while_planning(tmp_path, teacher, message, changes):
    changes = {k: v.format(teacher=teacher) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises((ConfigError, TkError), match=message):
        train(tmp_path, stage="distill", rows=ROWS, **changes)

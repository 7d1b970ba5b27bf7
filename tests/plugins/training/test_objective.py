"""The losses of a token have their closed forms, and exclude each other while planning."""

from __future__ import annotations

import json
import math

import pytest
import torch

import tkernel
from tkernel.errors import ConfigError
from tkernel.testing import tiny
from tkernel.types.check import CheckRequest
from tkernel_plugins.stages.sft import Options
from tkernel_plugins.training.losses import TOP, Objective
from tkernel_plugins.training.objective import check_objective, objective_of

GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.randn(4, 30, dtype=torch.float64, generator=GENERATOR)
ANCHORS = torch.randn(4, 30, dtype=torch.float64, generator=GENERATOR)
TARGETS = torch.tensor([0, 7, 29, 7])
P = LOGITS.softmax(-1)
RIGHT = P[torch.arange(4), TARGETS]


def entropy(row):
    top = sorted(row.tolist(), reverse=True)[:TOP]
    shares = [p / sum(top) for p in top]
    return -sum(p * math.log(p) for p in shares)


EXPECTED = {
    Objective(): -RIGHT.log(),
    Objective(smoothing=0.3): -0.7 * RIGHT.log() - 0.3 * P.log().mean(-1),
    Objective("dft"): -RIGHT * RIGHT.log(),
    Objective("eaft", 0.5): -torch.tensor([(entropy(row) / 3) ** 0.5 for row in P]) * RIGHT.log(),
    Objective("eaft", 0.0): -RIGHT.log(),
    Objective("asft", 0.2): -RIGHT * RIGHT.log()
    + 0.2 * (ANCHORS.softmax(-1) * (ANCHORS.log_softmax(-1) - P.log())).sum(-1),
}


@pytest.mark.parametrize("objective", EXPECTED, ids=str)
def test_an_objective_has_its_closed_form(objective):
    anchors = ANCHORS if objective.is_anchored else None
    torch.testing.assert_close(objective.losses(LOGITS, TARGETS, anchors), EXPECTED[objective])


def test_weights_by_probability_and_entropy_have_no_gradient():
    def gradient(objective, weights):
        logits = LOGITS.clone().requires_grad_()
        objective.losses(logits, TARGETS).sum().backward()
        plain = LOGITS.clone().requires_grad_()
        (weights * Objective().losses(plain, TARGETS)).sum().backward()
        torch.testing.assert_close(logits.grad, plain.grad)

    gradient(Objective("dft"), RIGHT)
    gradient(Objective("eaft"), torch.tensor([entropy(row) / 3 for row in P]))


def test_the_divergence_pulls_to_the_reference_and_is_zero_there():
    logits = ANCHORS.clone().requires_grad_()
    asft, dft = (Objective(kind, 5.0).losses(logits, TARGETS, ANCHORS) for kind in ("asft", "dft"))
    torch.testing.assert_close(asft, Objective("dft").losses(logits, TARGETS))
    assert dft.shape == asft.shape


@pytest.mark.parametrize(
    ("options", "arguments", "key", "words"),
    [
        ({"use_dft_loss": True, "use_eaft_loss": True}, {}, "use_eaft_loss", "two losses of the same tokens"),
        ({"use_dft_loss": True}, {"label_smoothing_factor": 0.1}, "label_smoothing_factor", "another loss"),
        ({"eaft_alpha": 2.0}, {}, "eaft_alpha", "is for a loss that is not used"),
        ({"asft_alpha": 2.0, "use_dft_loss": True}, {}, "asft_alpha", "is for a loss that is not used"),
    ],
)
def test_contradictions_are_found_while_planning(options, arguments, key, words):
    (problem,) = check_objective(CheckRequest(options=Options(**options), arguments=arguments))
    assert problem.key == key
    assert words in problem.message


def test_options_name_their_objective():
    assert objective_of(Options(), 0.1) == Objective(smoothing=0.1)
    assert objective_of(Options(use_asft_loss=True)) == Objective("asft", 0.1)
    assert objective_of(Options(use_eaft_loss=True, eaft_alpha=2.0)) == Objective("eaft", 2.0)
    assert objective_of(Options(use_dft_loss=True)).kind == "dft"


def test_runs_start_from_their_reference_whether_it_is_the_adapter_switched_off_or_loaded(tmp_path):
    tiny.save_model(tmp_path / "model")
    rows = [{"instruction": f"How much is {n} and 1?", "input": "", "output": str(n + 1)} for n in range(8)]

    def losses(name, **changes):
        config = {
            "model_name_or_path": str(tmp_path / "model"),
            "template": "chatml",
            "output_dir": str(tmp_path / name),
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
        }
        tkernel.run({**config, **changes}, train_dataset=rows)
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        return [entry["loss"] for entry in state["log_history"] if "loss" in entry]

    for kind in ("lora", "full"):
        dft = losses(f"dft {kind}", finetuning_type=kind, use_dft_loss=True)
        asft = losses(f"asft {kind}", finetuning_type=kind, use_asft_loss=True, asft_alpha=10.0)
        assert asft[0] == pytest.approx(dft[0], rel=1e-4)
        assert asft[1] > dft[1] * 1.01


def test_two_losses_at_once_end_the_plan(tmp_path):
    with pytest.raises(ConfigError, match="two losses of the same tokens"):
        tkernel.run(
            {"output_dir": str(tmp_path / "out"), "use_dft_loss": True, "use_asft_loss": True},
            model=tiny.make_model(),
            tokenizer=tiny.make_tokenizer(),
            train_dataset=[{"instruction": "a", "input": "", "output": "b"}],
        )

"""Training with fused calculations: the same losses and gradients, wherever it is used."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from training_kit import pad

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel_plugins.training.anchor import Anchor
from tkernel_plugins.training.losses import Objective

OBJECTIVES = [
    Objective(),
    Objective(smoothing=0.2),
    Objective("dft"),
    Objective("eaft", 0.5),
    Objective("asft", 0.3),
]


def adapted(family="llama", **changes):
    """A tiny model with an adapter that changes it."""
    torch.manual_seed(0)
    bundle = tiny.make_bundle(family)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **changes)
    return bundle.replace(module=get_peft_model(bundle.module, config, autocast_adapter_dtype=False))


def trainer_of(make_trainer, make_request, bundle, **kwargs):
    arguments = kwargs.pop("arguments", {})
    module = bundle.module
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    request = make_request(bundle=bundle, **arguments)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)
    return make_trainer(request, **kwargs)


def loss_and_gradients(trainer, batch, items=37.0):
    batch = {name: value for name, value in batch.items() if name != "origin"}
    trainer.model.train()
    loss, outputs = trainer.batch_loss(trainer.model, batch, torch.tensor(items))
    loss.backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    return loss.detach(), found, outputs


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_objective_has_the_loss_and_gradient_of_the_whole_logits(
    make_trainer, make_request, samples, objective, weighted
):
    for number, sample in enumerate(samples if weighted else ()):
        sample["weights"] = [0.5 + number % 3] * len(sample["input_ids"])
    results = []
    for fused in (False, True):
        bundle = adapted()
        anchor = Anchor(bundle.module) if objective.is_anchored else None
        kwargs = {"objective": objective, "anchor": anchor, "fused": fused, "longest": 64}
        trainer = trainer_of(make_trainer, make_request, bundle, **kwargs)
        assert (trainer.fused is not None) == fused
        results.append(loss_and_gradients(trainer, pad(samples[:6])))
    assert "logits" in results[0][2]
    assert "logits" not in results[1][2]
    assert_same(results[1], results[0])


@pytest.mark.parametrize("longest", [0, 16, 512])
def test_pieces_of_a_micro_batch_add_up_whether_joined_or_not(
    make_trainer, make_request, samples, monkeypatch, longest
):
    from tkernel_plugins.training.fused import choose, forward

    expected = loss_and_gradients(
        trainer_of(make_trainer, make_request, adapted(), fused=False), pad(samples[:5])
    )
    monkeypatch.setattr(choose, "PIECE", longest)
    monkeypatch.setattr(forward, "FEW", 1)
    trainer = trainer_of(make_trainer, make_request, adapted(), fused=True, longest=64)
    assert_same(loss_and_gradients(trainer, pad(samples[:5])), expected)


def test_padding_on_the_left_and_learned_padding_are_kept(make_trainer, make_request, samples):
    batch = pad(samples[:3])
    flipped = {name: value.flip(1) for name, value in batch.items() if name != "origin"}
    learned = {**batch, "labels": batch["labels"].where(batch["attention_mask"] == 1, 3)}
    plain = trainer_of(make_trainer, make_request, adapted(), fused=False)
    fused = trainer_of(make_trainer, make_request, adapted(), fused=True, longest=64)
    for given in (flipped, learned):
        assert_same(loss_and_gradients(fused, dict(given)), loss_and_gradients(plain, dict(given)))


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mixtral"])
def test_families_are_fused_where_that_is_exact(make_trainer, make_request, samples, family):
    def made(fused):
        torch.manual_seed(0)
        bundle = tiny.make_bundle(family)
        return trainer_of(make_trainer, make_request, bundle, fused=fused, longest=64)

    trainer = made("auto")
    # Gemma 2 caps its logits.
    assert (trainer.fused is None) == (family == "gemma2")
    assert_same(
        loss_and_gradients(trainer, pad(samples[:4])), loss_and_gradients(made(False), pad(samples[:4]))
    )


def test_fused_true_says_why_it_cannot_be_done(make_trainer, make_request):
    with pytest.raises(
        TkError, match=r"`fused: true` cannot be done: .* not the cross entropy of one product"
    ):
        trainer_of(make_trainer, make_request, tiny.make_bundle("gemma2"), fused=True)
    with pytest.raises(TkError, match="a loss was contributed"):
        trainer_of(make_trainer, make_request, tiny.make_bundle(), fused=True, loss=lambda *_, **__: 0)
    bundle = tiny.make_bundle()
    prompt = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(TkError, match="puts tokens before the sample"):
        trainer_of(
            make_trainer,
            make_request,
            bundle.replace(module=get_peft_model(bundle.module, prompt)),
            fused=True,
        )


def test_accuracy_is_counted_without_the_whole_logits(make_trainer, make_request, samples):
    found = [
        trainer_of(
            make_trainer,
            make_request,
            adapted(),
            fused=fused,
            accuracy=True,
            eval_dataset=samples,
            longest=64,
        ).evaluate()["eval_accuracy"]
        for fused in (False, True)
    ]
    assert found[0] == found[1]


def test_checkpointing_recomputes_with_the_same_attention(make_trainer, make_request, samples):
    plain = trainer_of(make_trainer, make_request, adapted(), fused=False)
    fused = trainer_of(make_trainer, make_request, adapted(), fused=True, longest=64)
    fused.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(loss_and_gradients(fused, pad(samples[:4])), loss_and_gradients(plain, pad(samples[:4])))


def test_nothing_is_left_in_the_model_or_in_what_was_saved(make_trainer, make_request, tmp_path):
    bundle = tiny.make_bundle()
    trainer = make_trainer(make_request(bundle=bundle, max_steps=1, save_strategy="no"), longest=64)
    assert trainer.fused.longest
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    module = trainer.trained_module()
    assert not [part for part in module.modules() if "forward" in part.__dict__]
    assert module.config._attn_implementation == "sdpa"
    assert "split" not in (tmp_path / "saved" / "config.json").read_text()


def test_noise_on_embeddings_is_for_training_and_does_not_depend_on_padding(
    make_trainer, make_request, samples, tmp_path
):
    arguments = {"max_steps": 1, "save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 4}
    losses = []
    for length in (0, 40):
        request = make_request(neftune_noise_alpha=5.0, **arguments)
        trainer = make_trainer(
            request, longest=64, eval_dataset=samples, data_collator=lambda rows, n=length: pad(rows, n)
        )
        plain = trainer.evaluate()["eval_loss"]
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert not trainer.model.get_input_embeddings()._forward_hooks
        trainer.save_model(str(tmp_path / "saved"))
        assert "neftune" not in json.dumps(trainer.model.config.to_dict())
        assert plain == pytest.approx(
            make_trainer(make_request(), eval_dataset=samples).evaluate()["eval_loss"]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)

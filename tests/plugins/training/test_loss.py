"""The loss of a step is the mean over the supervised tokens of its global batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from training_kit import pad

from tkernel.testing import tiny
from tkernel_plugins.training.losses import right_predictions, token_loss


def reference(model, samples):
    """Sum over samples, one by one and without padding, divided by the number of labels."""
    total, count = 0.0, 0
    for sample in samples:
        ids, labels = torch.tensor([sample["input_ids"]]), torch.tensor(sample["labels"])
        with torch.no_grad():
            logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for position in range(1, len(labels)):
            if labels[position] != -100:
                total -= float(logp[position - 1, labels[position]])
                count += 1
    return total / count


def step_loss(make_trainer, make_request, **arguments):
    """Loss and gradient norm of the one step over all 16 samples."""
    trainer = make_trainer(make_request(max_steps=1, logging_steps=1, save_strategy="no", **arguments))
    trainer.train()
    first = trainer.state.log_history[0]
    return first["loss"], first["grad_norm"]


def test_one_step_has_the_closed_form_of_the_mean_over_all_supervised_tokens(
    make_trainer, make_request, samples
):
    loss, _ = step_loss(make_trainer, make_request, per_device_train_batch_size=16)
    assert loss == pytest.approx(reference(tiny.make_model(), samples), rel=1e-5)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 16), (4, 4), (2, 8)])
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_split(
    make_trainer, make_request, batch, accumulation
):
    whole = step_loss(make_trainer, make_request, per_device_train_batch_size=16)
    split = step_loss(
        make_trainer,
        make_request,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )
    assert split == pytest.approx(whole, rel=1e-5)


def test_loss_and_gradient_do_not_depend_on_padding(make_trainer, make_request, samples):
    arguments = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8}
    seen = []
    for collator in (pad, partial(pad, to=64)):
        trainer = make_trainer(make_request(**arguments), data_collator=collator)
        trainer.train()
        seen.append((trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]))
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


def test_a_model_that_takes_no_loss_arguments_gets_the_same_loss(make_trainer, make_request):
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    expected = step_loss(make_trainer, make_request, **arguments)
    bundle = tiny.make_bundle()
    bundle.module.accepts_loss_kwargs = False
    assert step_loss(make_trainer, make_request, bundle=bundle, **arguments) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("family", [*tiny.TINY_CONFIGS, "llava"])
def test_every_family_normalises_over_the_global_batch(make_trainer, make_request, samples, family):
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    model = tiny.make_bundle(family).module
    loss, _ = step_loss(make_trainer, make_request, bundle=tiny.make_bundle(family), **arguments)
    assert loss == pytest.approx(reference(model, samples), rel=1e-4)


def test_weights_scale_tokens_and_a_weight_for_all_changes_nothing(make_trainer, make_request, samples):
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    expected = step_loss(make_trainer, make_request, **arguments)
    for sample in samples:
        sample["weights"] = [3.0] * len(sample["input_ids"])
    assert step_loss(make_trainer, make_request, **arguments) == pytest.approx(expected, rel=1e-5)
    for sample in samples[8:]:
        sample["weights"] = [0.0] * len(sample["input_ids"])
    loss, _ = step_loss(make_trainer, make_request, **arguments)
    assert loss == pytest.approx(reference(tiny.make_model(), samples[:8]), rel=1e-5)


def test_label_smoothing_is_normalised_over_the_global_batch_too(make_trainer, make_request):
    whole = step_loss(make_trainer, make_request, per_device_train_batch_size=16, label_smoothing_factor=0.1)
    split = step_loss(
        make_trainer,
        make_request,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        label_smoothing_factor=0.1,
    )
    assert split == pytest.approx(whole, rel=1e-5)


def test_a_contributed_loss_gets_the_items_of_the_whole_step(make_trainer, make_request, samples):
    seen = []

    def loss(outputs, labels, num_items_in_batch):
        seen.append(int(num_items_in_batch))
        return token_loss(outputs, labels, num_items_in_batch)

    arguments = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    expected = step_loss(make_trainer, make_request, **arguments)
    trainer = make_trainer(
        make_request(max_steps=1, logging_steps=1, save_strategy="no", **arguments), loss=loss
    )
    trainer.train()
    assert seen == [sum(label != -100 for s in samples for label in s["labels"])] * 4
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected[0], rel=1e-5)


def test_a_contributed_loss_that_cannot_take_weights_is_an_error_where_the_data_has_them(
    make_trainer, make_request, samples
):
    from tkernel.errors import SlotError

    for sample in samples:
        sample["weights"] = [2.0] * len(sample["input_ids"])
    trainer = make_trainer(
        make_request(max_steps=1), loss=lambda outputs, labels, num_items_in_batch: outputs["logits"].sum()
    )
    with pytest.raises(SlotError, match="takes none"):
        trainer.train()


def test_a_contributed_optimizer_is_the_one_that_steps(make_trainer, make_request):
    made = []

    def optimizer(model, arguments):
        made.append(torch.optim.SGD(model.parameters(), lr=arguments.learning_rate))
        return made[0]

    trainer = make_trainer(
        make_request(max_steps=1, learning_rate=0.5, save_strategy="no"), optimizer=optimizer
    )
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert trainer.optimizer.optimizer is made[0]
    assert not torch.equal(before, trainer.model.lm_head.weight)


def test_a_micro_batch_without_any_label_has_loss_zero(make_trainer, make_request, samples):
    for sample in samples:
        sample["labels"] = [-100] * len(sample["labels"])
    loss, norm = step_loss(make_trainer, make_request, per_device_train_batch_size=4)
    assert (loss, norm) == (0.0, 0.0)


def test_a_loss_that_is_not_finite_names_the_samples_of_its_micro_batch(make_trainer, make_request):
    from tkernel_plugins.training.errors import NonFiniteLoss

    trainer = make_trainer(
        make_request(max_steps=1, per_device_train_batch_size=2),
        loss=lambda outputs, labels, num_items_in_batch: outputs["logits"].sum() * float("nan"),
    )
    with pytest.raises(NonFiniteLoss, match=r"nan in step 1; .*data/train\.json:\d+, data/train\.json:\d+"):
        trainer.train()


def test_evaluation_loss_and_accuracy_are_means_over_tokens_for_any_batch_size(
    make_trainer, make_request, samples
):
    model = tiny.make_model()
    right = sum(
        int(right_predictions(model(input_ids=torch.tensor([s["input_ids"]])), torch.tensor([s["labels"]])))
        for s in samples
    )
    tokens = sum(label != -100 for s in samples for label in s["labels"])
    for size in (1, 3, 16):
        request = make_request(per_device_eval_batch_size=size)
        metrics = make_trainer(request, eval_dataset=samples, accuracy=True).evaluate()
        assert metrics["eval_loss"] == pytest.approx(reference(model, samples), rel=1e-5)
        assert metrics["eval_accuracy"] == pytest.approx(right / tokens)

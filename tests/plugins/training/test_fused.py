"""What is fused computes what it replaces: values, gradients, whole models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from tkernel.testing import tiny
from tkernel_plugins.training.fused.apply import fuse
from tkernel_plugins.training.fused.attention import NAME, applies_to, register
from tkernel_plugins.training.fused.head import CHUNK, linear_cross_entropy, linear_logps
from tkernel_plugins.training.fused.lora import LoraLinear
from tkernel_plugins.training.fused.model import SplitHead
from tkernel_plugins.training.fused.norm import RmsNorm, SiluTimes
from tkernel_plugins.training.losses import token_loss

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "phi3", "glm", "mixtral", "gemma", "gemma2"]


def drawn(*shape, dtype=torch.float64, grad=True):
    return torch.randn(*shape, dtype=dtype, generator=GENERATOR).requires_grad_(grad)


GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_adapted_layer_has_the_closed_form_and_its_gradient(bias):
    x, a, b = drawn(2, 3, 7), drawn(2, 7), drawn(5, 2)
    weight, offset = drawn(5, 7, grad=False), drawn(5, grad=False) if bias else None
    expected = F.linear(x, weight, offset) + 0.5 * (x @ a.T) @ b.T
    torch.testing.assert_close(LoraLinear.apply(x, weight, offset, a, b, 0.5), expected)
    torch.autograd.gradcheck(
        lambda *given: LoraLinear.apply(given[0], weight, offset, *given[1:], 0.5), (x, a, b)
    )


def test_the_fused_norm_and_activation_have_the_closed_form_and_its_gradient():
    x, weight = drawn(2, 3, 8, dtype=torch.float32), drawn(8, dtype=torch.float32)
    gradient = drawn(2, 3, 8, dtype=torch.float32, grad=False)
    expected = F.rms_norm(x, (8,), weight, 1e-6)
    found = RmsNorm.apply(x, weight, 1e-6)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        *(torch.autograd.grad(y, (x, weight), gradient) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)
    torch.autograd.gradcheck(SiluTimes.apply, (drawn(2, 3, 4), drawn(2, 3, 4)))


@pytest.mark.parametrize("positions", [0, 1, CHUNK + 3])
def test_loss_and_log_probabilities_of_the_output_layer_equal_those_of_its_logits(positions):
    hidden, weight = drawn(positions, 6), drawn(11, 6)
    targets = torch.randint(11, (positions,), generator=GENERATOR)
    scale = torch.rand(positions, generator=GENERATOR)

    def logps():
        return torch.log_softmax(hidden @ weight.T, -1).gather(1, targets[:, None])[:, 0]

    pairs = [
        (linear_cross_entropy(hidden, weight, targets, scale), -(scale * logps()).sum()),
        ((linear_logps(hidden, weight, targets) * scale).square().sum(), (scale * logps()).square().sum()),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
        of_found = torch.autograd.grad(found, (hidden, weight))
        for one, other in zip(of_found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def adapted(family):
    torch.manual_seed(0)
    model = get_peft_model(
        tiny.make_model(family),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    return model.train()


def batch():
    ids = torch.randint(5, 90, (2, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": mask}, labels


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_has_the_loss_and_the_gradients_of_the_model(family):
    model = adapted(family)
    inputs, labels = batch()
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2))
    items = torch.tensor(7.0)
    expected = token_loss(model(**inputs), labels, items, weights=weights)
    expected.backward()
    expected_gradients = gradients(model)
    fused = fuse(model)
    assert fused.counts["adapted linear layers"] > 4
    head = SplitHead.of(model)
    # Gemma 2 caps its logits, and `all-linear` spares the output layer.
    assert (head is None) == (family == "gemma2")
    if head is None:
        found = token_loss(model(**inputs), labels, items, weights=weights)
    else:
        found = head.loss(inputs, labels, items, weights)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found_gradients = gradients(model)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-6)
    fused.undo()
    assert not [m for m in model.modules() if "forward" in m.__dict__]


def test_an_adapter_that_is_switched_off_or_merged_is_so_in_a_fused_model():
    model = adapted("llama")
    inputs, _ = batch()
    fuse(model)
    fused = model(**inputs).logits
    with model.disable_adapter():
        plain = model(**inputs).logits
    assert not torch.allclose(fused, plain)
    torch.testing.assert_close(plain, tiny_again("llama")(**inputs).logits)
    model.merge_adapter()
    torch.testing.assert_close(model(**inputs).logits, fused, rtol=1e-4, atol=1e-5)


def tiny_again(family):
    torch.manual_seed(0)
    return tiny.make_model(family).train()


def test_what_is_no_plain_adapter_is_left_alone():
    for changes in ({"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}):
        config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **changes)
        assert "adapted linear layers" not in fuse(get_peft_model(tiny.make_model("llama"), config)).counts


def test_log_probabilities_of_a_model_are_those_of_its_logits():
    model = adapted("llama")
    inputs, labels = batch()
    expected = torch.log_softmax(model(**inputs).logits[:, :-1], -1)
    chosen = labels[:, 1:].clamp(min=0)
    expected = expected.gather(2, chosen[..., None])[..., 0].where(labels[:, 1:] != -100, 0)
    torch.testing.assert_close(SplitHead.of(model).logps(inputs, labels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "glm"])
def test_split_attention_keeps_the_samples_of_a_row_apart(family):
    register()
    model = tiny.make_model(family).train()
    model.set_attn_implementation("sdpa")
    assert applies_to(model.config, 8)
    ids = torch.randint(5, 90, (1, 12), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[*range(5), *range(7)]])
    alone = [model(input_ids=part).logits for part in ids.split([5, 7], 1)]
    model.set_attn_implementation(NAME)
    joined = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(joined, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
    padded = {"input_ids": ids.expand(2, -1), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    padded["attention_mask"][1, 8:] = 0
    found = model(**padded).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, model(**padded).logits)


def test_split_attention_is_not_for_windows_that_samples_pass():
    model = tiny.make_model("mistral")
    model.config.sliding_window = 16
    model.set_attn_implementation("sdpa")
    assert applies_to(model.config, 16)
    assert not applies_to(model.config, 17)

"""Training a model's own parameters: which ones, in which precision."""

from __future__ import annotations

import pytest
import torch

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.types.check import CheckRequest
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters import freeze, full

IDS = torch.arange(24).reshape(2, 12)


def train_all(bundle, *, trainable=True, adapters=(), arguments=(), **options):
    request = AdapterRequest(full.FullOptions(**options), adapters, trainable, arguments=dict(arguments))
    return full.ADAPTER.adapt(bundle, request).module


def train_some(bundle, *, new_tokens=(), arguments=(), **options):
    request = AdapterRequest(
        freeze.FreezeOptions(**options), new_tokens=new_tokens, arguments=dict(arguments)
    )
    return freeze.ADAPTER.adapt(bundle, request).module


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", sorted(tiny.TINY_CONFIGS))
def test_full_trains_every_parameter(family):
    module = train_all(tiny.make_bundle(family))
    assert trained(module) == {name for name, _ in module.named_parameters()}


def test_full_holds_everything_in_float32_also_for_bf16():
    bundle = tiny.make_bundle()
    bundle.module.to(torch.bfloat16)
    module = train_all(bundle, arguments={"bf16": True})
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_full_trains_nothing_for_inference():
    assert not trained(train_all(tiny.make_bundle(), trainable=False))


def test_full_and_freeze_refuse_lora_folders():
    with pytest.raises(TkError, match="out/first"):
        train_all(tiny.make_bundle(), adapters=("out/first",))


def test_full_leaves_the_frozen_parts_of_a_multimodal_model():
    names = trained(train_all(tiny.make_bundle("llava")))
    assert not any("vision_tower" in name or "projector" in name for name in names)
    assert "model.language_model.embed_tokens.weight" in names
    names = trained(
        train_all(tiny.make_bundle("llava"), freeze_multi_modal_projector=False, freeze_language_model=True)
    )
    assert all("multi_modal_projector" in name for name in names - {"lm_head.weight"})


def test_full_with_everything_frozen_is_an_error():
    with pytest.raises(TkError, match="nothing is left"):
        train_all(tiny.make_bundle("llava", tie_word_embeddings=True), freeze_language_model=True)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, {"2"}), (2, {"1", "2"}), (-1, {"0"}), (-2, {"0", "1"}), (3, {"0", "1", "2"})]
)
def test_freeze_trains_the_last_or_the_first_layers(count, expected):
    names = trained(train_some(tiny.make_bundle(num_hidden_layers=3), freeze_trainable_layers=count))
    assert {name.split(".")[2] for name in names} == expected
    assert all(name.startswith("model.layers.") for name in names)
    assert len(names) == 9 * len(expected)


@pytest.mark.parametrize("count", [0, 3, -3])
def test_freeze_of_no_layer_or_more_than_there_are_is_an_error(count):
    with pytest.raises(TkError, match="has 2 layers"):
        train_some(tiny.make_bundle(), freeze_trainable_layers=count)


def test_freeze_trains_named_parts_of_the_layers():
    names = trained(
        train_some(tiny.make_bundle(), freeze_trainable_layers=1, freeze_trainable_modules="mlp,q_proj")
    )
    parts = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"}
    assert names == {f"model.layers.1.{part}.weight" for part in parts}


def test_freeze_trains_extra_modules():
    bundle = tiny.make_bundle(tie_word_embeddings=False)
    names = trained(
        train_some(bundle, freeze_trainable_layers=1, freeze_extra_modules=["embed_tokens", "norm"])
    )
    assert {name for name in names if ".layers." not in name} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }


def test_freeze_trains_both_embeddings_when_the_vocabulary_grew():
    bundle = tiny.make_bundle(tie_word_embeddings=False)
    names = trained(train_some(bundle, freeze_trainable_layers=1, new_tokens=(299,)))
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= names


@pytest.mark.parametrize(
    ("option", "suggestion"),
    [({"freeze_trainable_modules": "mpl"}, "mlp"), ({"freeze_extra_modules": "embed_token"}, "embed_tokens")],
)
def test_freeze_of_an_unknown_name_lists_what_could_match(option, suggestion):
    with pytest.raises(TkError, match=next(iter(option))) as caught:
        train_some(tiny.make_bundle(), **option)
    assert f"Did you mean {suggestion!r}?" in caught.value.hint


def test_freeze_works_on_the_language_model_of_a_multimodal_one():
    names = trained(train_some(tiny.make_bundle("llava"), freeze_trainable_layers=1))
    assert names
    assert all(name.startswith("model.language_model.layers.1.") for name in names)


def test_freeze_with_bf16_holds_what_is_trained_in_float32_and_the_rest_in_bfloat16():
    module = train_some(tiny.make_bundle(), freeze_trainable_layers=1, arguments={"bf16": True})
    kinds = {(p.requires_grad, p.dtype) for p in module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_freeze_moves_only_what_it_trains():
    bundle = tiny.make_bundle()
    module = train_some(bundle, freeze_trainable_layers=1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(3):
        module(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in module.named_parameters() if not torch.equal(before[name], p)}
    assert moved == trained(module)


@pytest.mark.parametrize("method", [train_all, train_some])
def test_pure_bf16_holds_trained_and_frozen_weights_in_bfloat16(method):
    module = method(tiny.make_bundle(), pure_bf16=True)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert trained(module)


@pytest.mark.parametrize("adapter", [full.ADAPTER, freeze.ADAPTER])
def test_pure_bf16_and_mixed_precision_exclude_each_other(adapter):
    options = adapter.Options(pure_bf16=True)
    (problem,) = adapter.check(CheckRequest(options, arguments={"bf16": True}))
    assert problem.key == "pure_bf16"
    assert adapter.check(CheckRequest(options)) == []

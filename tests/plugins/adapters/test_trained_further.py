"""An adapter that is trained further: what it cannot become, and the tokens that a template adds to its model."""

from __future__ import annotations

import pytest
import torch

import tkernel
from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.lora import ADAPTER, LoraOptions

ROWS = [{"instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(4)]


def adapt(bundle, *folders, new_tokens=(), trainable=True, **options):
    request = AdapterRequest(LoraOptions(**options), tuple(map(str, folders)), trainable, new_tokens)
    return ADAPTER.adapt(bundle, request)


def grown(count=2):
    """A model with `count` tokens more, and their ids."""
    bundle = tiny.make_bundle()
    first = len(bundle.tokenizer)
    bundle.tokenizer.add_special_tokens({"additional_special_tokens": [f"<new{n}>" for n in range(count)]})
    bundle.module.resize_token_embeddings(first + count)
    return bundle, tuple(range(first, first + count))


@pytest.fixture
def saved(tmp_path):
    """Makes an adapter with some options and saves it."""

    def make(bundle=None, **options):
        folder = tmp_path / "adapter"
        adapt(bundle or tiny.make_bundle(), **options).module.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ({"lora_target": "q_proj"}, {"lora_target": "k_proj"}),
        ({}, {"lora_target": "q_proj"}),
        ({}, {"additional_target": "embed_tokens"}),
        ({"additional_target": "norm"}, {"additional_target": "embed_tokens"}),
    ],
)
def test_modules_that_the_adapter_does_not_train_cannot_be_asked_for(saved, made, wanted):
    folder = saved(**made)
    with pytest.raises(TkError, match=rf"`{next(iter(wanted))}: .*cannot change") as caught:
        adapt(tiny.make_bundle(), folder, **wanted)
    assert "create_new_adapter" in caught.value.hint


@pytest.mark.parametrize(
    "options", [{"lora_target": "v_proj, q_proj"}, {"additional_target": ["norm", "embed_tokens"]}]
)
def test_the_options_that_made_an_adapter_train_it_further(saved, options):
    folder = saved(**options)
    assert adapt(tiny.make_bundle(), folder, **options).module.peft_config
    assert adapt(tiny.make_bundle(), folder).module.peft_config


def test_new_tokens_that_the_adapter_has_no_embedding_for_are_an_error_that_names_them(saved):
    bundle, new = grown()
    with pytest.raises(TkError, match="'<new0>', '<new1>'") as caught:
        adapt(bundle, saved(), new_tokens=new)
    assert "create_new_adapter" in caught.value.hint


@pytest.mark.parametrize("options", [{}, {"additional_target": "embed_tokens,lm_head"}])
def test_new_tokens_that_the_adapter_trains_are_trained_further(saved, options):
    bundle, new = grown()
    folder = saved(bundle, new_tokens=new, **options)
    module = adapt(grown()[0], folder, new_tokens=new).module
    assert any("embed_tokens" in name for name, p in module.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_with_more_tokens_than_the_model_is_an_error_that_asks_for_its_template(saved, trainable):
    bundle, new = grown()
    folder = saved(bundle, new_tokens=new)
    with pytest.raises(TkError, match=f"embedding for token {new[-1]}") as caught:
        adapt(tiny.make_bundle(), folder, trainable=trainable)
    assert "`template`" in caught.value.hint


@pytest.mark.parametrize("trainable", [True, False])
def test_an_embedding_that_was_trained_for_another_token_of_the_same_id_is_an_error(saved, trainable):
    bundle, new = grown()
    folder = saved(bundle, new_tokens=new)
    bundle.tokenizer.save_pretrained(folder)
    assert adapt(grown()[0], folder, new_tokens=new, trainable=trainable).module
    other = tiny.make_bundle()
    other.tokenizer.add_special_tokens({"additional_special_tokens": ["<other>", "<new1>"]})
    other.module.resize_token_embeddings(len(other.tokenizer))
    with pytest.raises(
        TkError, match=f"embedding for '<new0>', and here token {new[0]} is '<other>'"
    ) as caught:
        adapt(other, folder, new_tokens=new, trainable=trainable)
    assert "`template`" in caught.value.hint


def test_tokens_that_a_template_adds_start_the_same_in_every_run(tmp_path):
    def embeddings(name):
        bundle = tiny.make_bundle()
        settings = {"output_dir": str(tmp_path / name), "max_steps": 1, "template": "minimax2"}
        objects = {"model": bundle.module, "tokenizer": bundle.tokenizer, "train_dataset": ROWS}
        module = tkernel.run(settings, **objects).bundle.module
        return module.get_input_embeddings().weight.detach()

    one, two = embeddings("one"), embeddings("two")
    assert len(one) > len(tiny.make_bundle().tokenizer)
    assert torch.equal(one, two)


@pytest.mark.parametrize("again", ["module", "base"])
def test_a_model_that_an_earlier_run_adapted_is_not_adapted_again(again):
    bundle = tiny.make_bundle()
    adapted = adapt(bundle).module
    module = adapted if again == "module" else adapted.get_base_model()
    with pytest.raises(TkError, match="adapter of an earlier run") as caught:
        adapt(bundle.replace(module=module))
    assert "merge_and_unload" in caught.value.hint

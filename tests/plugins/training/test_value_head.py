"""The value head: what it computes, and that its file is what TRL and LLaMA-Factory read."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel_plugins.training import value_head


def adapted(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.mark.parametrize("wrap", [lambda model: model, adapted])
def test_values_are_a_linear_function_of_the_last_hidden_states(wrap):
    model = wrap(tiny.make_model())
    head = value_head.attach(model, seed=3)
    states = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    expected = states @ head.summary.weight[0] + head.summary.bias
    torch.testing.assert_close(value_head.values(model, {"input_ids": IDS}), expected)


def test_the_last_value_is_that_of_the_last_token_on_whichever_side_padding_is():
    model = tiny.make_model()
    value_head.attach(model, seed=3)
    whole = value_head.values(model, {"input_ids": IDS})
    padded = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 0, 0], [0, 0, 9, 8, 7, 6, 5]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 0], [0, 0, 0, 1, 2, 3, 4]]),
    }
    torch.testing.assert_close(value_head.last_values(model, padded), whole[:, -1])


def test_the_seed_alone_decides_on_a_new_head():
    heads = []
    for state in (1, 2):
        torch.manual_seed(state)
        heads.append(value_head.attach(tiny.make_model(), seed=3).summary.weight)
    assert heads[0].equal(heads[1])


def test_a_saved_head_has_the_names_and_shapes_of_trl_and_loads_bit_by_bit(tmp_path):
    model = tiny.make_model()
    head = value_head.attach(model, seed=3)
    tensors = load_file(value_head.save(model, tmp_path))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "v_head.summary.weight": (1, 32),
        "v_head.summary.bias": (1,),
    }
    loaded = value_head.load(adapted(tiny.make_model()), tmp_path)
    assert loaded.summary.weight.equal(head.summary.weight)
    assert loaded.summary.bias.equal(head.summary.bias)


def test_a_pickled_head_of_older_runs_loads(tmp_path):
    tensors = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.zeros(1)}
    torch.save(tensors, tmp_path / "value_head.bin")
    assert value_head.has_saved(tmp_path)
    assert value_head.load(tiny.make_model(), tmp_path).summary.weight.eq(1).all()


def test_a_head_of_another_width_or_none_is_an_error(tmp_path):
    with pytest.raises(TkError, match="it is no reward model"):
        value_head.load(tiny.make_model(), tmp_path)
    wide = tiny.make_model(hidden_size=16)
    value_head.attach(wide)
    value_head.save(wide, tmp_path)
    with pytest.raises(TkError, match="needs"):
        value_head.load(tiny.make_model(), tmp_path)
    with pytest.raises(TkError, match="has no value head"):
        value_head.values(tiny.make_model(), {"input_ids": IDS})

"""`packing`, `neat_packing`, `padding_free` and `group_by_length` in whole runs of `sft`."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset

import tkernel
from tkernel.errors import ConfigError, TkError
from tkernel.testing import tiny
from tkernel_plugins.training.sampling import LengthGrouped, Lengths, lengths_of

SAID = [
    ("Hi", "Hello."),
    ("Who runs the inn?", "The user does, and nobody else."),
    ("How much is 12 and 12?", "24"),
    ("And then?", "Then on and on and on and on and on."),
    ("Stop", "Yes."),
    ("Where?", "Behind the inn."),
    ("Again?", "12 12 12 12 12"),
]
ROWS = [{"instruction": ask, "input": "", "output": reply} for ask, reply in SAID]


@pytest.fixture
def train(tmp_path):
    """Run `stage: sft` on a tiny model; the log of each step."""
    tiny.save_model(tmp_path / "model")

    def run(name="out", **changes):
        config = {
            "model_name_or_path": str(tmp_path / "model"),
            "finetuning_type": "full",
            "template": "chatml",
            "output_dir": str(tmp_path / name),
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "cutoff_len": 256,
        }
        rows, held_out = changes.pop("rows", ROWS), changes.pop("held_out", None)
        tkernel.run({**config, **changes}, train_dataset=rows, eval_dataset=held_out)
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        return [entry for entry in state["log_history"] if "loss" in entry], state

    return run


def losses(logs):
    return [entry["loss"] for entry in logs]


def test_a_run_without_padding_has_the_losses_of_a_padded_one(train):
    padded, state = train("padded")
    free, free_state = train("free", padding_free=True, dataloader_num_workers=1)
    assert losses(free) == pytest.approx(losses(padded), rel=1e-4)
    assert free_state["num_input_tokens_seen"] == state["num_input_tokens_seen"]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_neat_packed_epoch_has_the_losses_of_an_unpacked_one(train, batch):
    alone, state = train("alone", per_device_train_batch_size=len(ROWS))
    # 100 tokens hold two or three of the samples, so an epoch has several rows.
    rows = 4
    packed, packed_state = train(
        "packed",
        neat_packing=True,
        cutoff_len=100,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rows // batch,
    )
    assert losses(packed) == pytest.approx(losses(alone), rel=1e-3)
    assert packed_state["num_input_tokens_seen"] == state["num_input_tokens_seen"]


def test_packing_alone_lets_samples_see_each_other(train):
    alone, state = train("alone", per_device_train_batch_size=len(ROWS))
    packed, packed_state = train("packed", packing=True)
    assert losses(packed)[0] != pytest.approx(losses(alone)[0], rel=1e-3)
    assert packed_state["num_input_tokens_seen"] == state["num_input_tokens_seen"]


def test_evaluation_is_packed_too_and_its_loss_is_the_same(train):
    options = {"held_out": ROWS[:3], "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 0.0}
    results = [train(name, **options, **{name: True})[1] for name in ("neat_packing", "padding_free")]
    results.append(train("alone", **options)[1])
    found = [next(e["eval_loss"] for e in state["log_history"] if "eval_loss" in e) for state in results]
    assert found[:2] == pytest.approx([found[2]] * 2, rel=1e-4)


def test_a_batch_of_one_label_is_no_division_by_zero(train):
    logs, _ = train(rows=[{"instruction": "a", "input": "", "output": "b"}] * 2, neat_packing=True)
    assert all(torch.isfinite(torch.tensor(losses(logs))))


def test_a_packed_run_goes_on_where_it_stopped(train, tmp_path):
    options = {"neat_packing": True, "cutoff_len": 100, "per_device_train_batch_size": 1, "max_steps": 6}
    whole, _ = train("whole", **options, save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed, _ = train("resumed", **options, resume_from_checkpoint=str(checkpoint))
    assert losses(resumed)[3:] == losses(whole)[3:]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"packing": True, "group_by_length": True},
            "`train_sampling_strategy: group_by_length` sorts samples",
        ),
        ({"streaming": True, "group_by_length": True}, "needs the lengths of all samples, and a stream has"),
        ({"neat_packing": True, "use_cache": True}, "with `use_cache: true` models do not keep"),
        ({"padding_free": True, "use_cache": True}, "`padding_free` asks for that"),
        ({"padding_free": True, "packing": True}, "padding_free: true and packing: true are two ways"),
        ({"neat_packing": True, "packing": False}, "neat_packing: true packs and packing: false does not"),
    ],
)
def test_contradictions_are_told_before_anything_is_loaded(train, options, line):
    with pytest.raises((ConfigError, TkError)) as caught:
        train(**options)
    assert line in str(caught.value)
    assert isinstance(caught.value, ConfigError)


def test_a_model_that_mixes_samples_is_refused_before_data_is_prepared(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny.make_tokenizer()
    config = AutoConfig.for_model(
        "mamba", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4
    )
    rows = [{"instruction": "a", "input": "", "output": "b"}]
    with pytest.raises(TkError, match="`neat_packing` cannot be used with MambaForCausalLM"):
        tkernel.run(
            {
                "output_dir": str(tmp_path / "out"),
                "template": "chatml",
                "finetuning_type": "full",
                "neat_packing": True,
                "use_cpu": True,
                "max_steps": 1,
            },
            model=AutoModelForCausalLM.from_config(config),
            tokenizer=tokenizer,
            train_dataset=rows,
        )
    assert not (tmp_path / "out" / "data_report.json").exists()


@pytest.mark.parametrize("key", [{"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}])
def test_samples_of_one_length_meet_in_a_batch_and_the_order_can_be_resumed(train, tmp_path, key):
    options = {**key, "per_device_train_batch_size": 2, "max_steps": 8}
    whole, _ = train("whole", **options, save_strategy="steps", save_steps=6)
    checkpoint = tmp_path / "whole" / "checkpoint-6"
    resumed, _ = train("resumed", **options, resume_from_checkpoint=str(checkpoint))
    assert losses(resumed)[6:] == losses(whole)[6:]
    random, _ = train("random", per_device_train_batch_size=2, max_steps=8)
    assert losses(random) != losses(whole)


def test_rebalanced_batches_hold_every_sample(train):
    logs, state = train(
        train_sampling_strategy="batch_rebalance",
        num_train_epochs=1,
        max_steps=-1,
        per_device_train_batch_size=7,
    )
    assert len(logs) == 1
    assert (
        state["num_input_tokens_seen"]
        == train("alone", per_device_train_batch_size=7, max_steps=1)[1]["num_input_tokens_seen"]
    )


def test_lengths_are_those_of_the_rows_in_their_order():
    dataset = Dataset.from_dict({"input_ids": [[1], [1, 2], [1, 2, 3], []]})
    assert lengths_of(dataset) == [1, 2, 3, 0]
    assert lengths_of(dataset.select([2, 0])) == [3, 1]
    assert [len(item["input_ids"]) for item in Lengths(dataset.select([1, 2]))] == [2, 3]


def test_groups_of_length_are_decided_by_seed_and_epoch():
    lengths = [n % 7 for n in range(40)]

    def order(seed, epoch):
        sampler = LengthGrouped(lengths, 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(0)
    first = order(1, 0)
    torch.manual_seed(5)
    assert order(1, 0) == first
    assert sorted(first) == list(range(40))
    assert order(1, 1) != first
    assert order(2, 0) != first

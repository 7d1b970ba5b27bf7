"""Chains of real stages on a tiny model: what one stage saves is what the next begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tkernel
from tkernel.errors import ConfigError
from tkernel.testing import tiny

ROWS = [{"instruction": f"What is {n} and 1?", "output": f"{n + 1} " * (1 + n % 4)} for n in range(8)]
PAIRS = [
    {"instruction": f"What is {n}?", "input": "", "chosen": f"{n} it is", "rejected": "no"} for n in range(8)
]


@pytest.fixture
def chain(tmp_path: Path):
    """Run `stages:` over common keys."""
    tiny.save_model(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))

    def run(*stages: dict[str, Any], **common: Any) -> Any:
        settings = {
            "model_name_or_path": str(tmp_path / "model"),
            "finetuning_type": "lora",
            "lora_rank": 4,
            "template": "chatml",
            "dataset": str(tmp_path / "rows.json"),
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "use_cpu": True,
        }
        return tkernel.run({**settings, **common, "stages": list(stages)})

    return run


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / name / "adapter_model.safetensors")


def test_a_whole_model_then_an_adapter_on_it(chain, tmp_path):
    result = chain(
        {"stage": "sft", "name": "whole", "finetuning_type": "full"}, {"stage": "sft", "name": "lora"}
    )
    assert result.output_dir == tmp_path / "out/lora"
    config = json.loads((tmp_path / "out/lora/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "out/whole")
    trained = load_file(tmp_path / "out/whole/model.safetensors")
    below = {
        n.replace(".base_layer", ""): p for n, p in result.bundle.module.get_base_model().named_parameters()
    }
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert torch.equal(below[name].float(), trained[name].float()), name


def test_an_adapter_is_trained_further_as_two_runs_by_hand_would(chain, tmp_path):
    chain({"stage": "sft"}, {"stage": "sft", "learning_rate": 1e-3})
    by_hand = {
        "model_name_or_path": str(tmp_path / "model"),
        "adapter_name_or_path": str(tmp_path / "out/sft"),
        "template": "chatml",
        "dataset": str(tmp_path / "rows.json"),
        "output_dir": str(tmp_path / "hand"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "lora_rank": 4,
    }
    tkernel.run(by_hand)
    hand = load_file(tmp_path / "hand/adapter_model.safetensors")
    first, second = weights(tmp_path, "sft"), weights(tmp_path, "sft-2")
    assert all(torch.equal(second[name], hand[name]) for name in hand)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_sft_rm_ppo_trains_policy_and_reward_model_from_the_same_adapter(chain, tmp_path):
    pairs = {"dataset": "pairs", "dataset_dir": str(tmp_path)}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True}}
    info["pairs"]["columns"] = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    result = chain({"stage": "sft"}, {"stage": "rm", **pairs}, {"stage": "ppo", "max_new_tokens": 4})
    assert result.output_dir == tmp_path / "out/ppo"
    locked = json.loads((tmp_path / "out/ppo/run.lock.json").read_text())["settings"]
    assert locked["adapter_name_or_path"]["value"] == [str(tmp_path / "out/sft")]
    assert locked["reward_model"]["value"] == str(tmp_path / "out/rm")
    assert (tmp_path / "out/rm/value_head.safetensors").is_file()


def test_a_reward_model_of_another_kind_is_told_before_the_first_stage(chain, tmp_path):
    with pytest.raises(
        ConfigError, match=r"stages\[2\].*holds an adapter, and `reward_model_type` is `full`"
    ):
        chain(
            {"stage": "sft"},
            {"stage": "rm"},
            {"stage": "ppo", "max_new_tokens": 4, "reward_model_type": "full"},
        )
    assert not (tmp_path / "out").exists()


def test_a_finished_chain_does_nothing(chain, tmp_path, capsys):
    chain({"stage": "sft"}, {"stage": "sft"})
    saved = (tmp_path / "out/sft-2/adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    result = chain({"stage": "sft"}, {"stage": "sft"})
    assert capsys.readouterr().out.count("nothing is left to do") == 2
    assert (result.bundle, result.steps) == (None, 2)
    assert (tmp_path / "out/sft-2/adapter_model.safetensors").stat().st_mtime_ns == saved

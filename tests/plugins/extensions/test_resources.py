"""Extension `resources`: measures the hooks that it wraps and changes nothing."""

from __future__ import annotations

import json

import pytest
import torch

import tkernel
from tkernel.testing import tiny

ROWS = [{"instruction": f"How much is {n} and 1?", "input": "", "output": str(n + 1)} for n in range(8)]
CONFIG = {
    "finetuning_type": "full",
    "template": "chatml",
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "save_strategy": "no",
    "use_cpu": True,
}


def train(output_dir, **changes):
    bundle = tiny.make_bundle()
    config = {**CONFIG, "output_dir": str(output_dir), **changes}
    return tkernel.run(config, model=bundle.module, tokenizer=bundle.tokenizer, train_dataset=ROWS)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run") / "out", use_resources=True)


def test_the_report_names_hooks_with_their_memory_and_the_rates_of_training(result):
    report = json.loads((result.output_dir / "resources.json").read_text())
    measured = {cost["hook"]: cost for cost in report["hooks"]}
    assert set(measured) == {"adapt", "train_stage"}  # a model given in memory is not loaded
    assert measured["train_stage"]["peak"] >= measured["adapt"]["peak"] > 0
    assert measured["train_stage"]["seconds"] > 0
    assert set(report["throughput"]) == {"steps_per_s", "samples_per_s", "tokens_per_s"}
    assert report["throughput"]["samples_per_s"] == pytest.approx(2 * report["throughput"]["steps_per_s"])


def test_a_run_with_the_extension_is_the_run_without_it(result, tmp_path):
    plain = train(tmp_path / "plain")
    assert not (tmp_path / "plain/resources.json").exists()
    for name, tensor in plain.bundle.module.state_dict().items():
        assert torch.equal(tensor, result.bundle.module.state_dict()[name]), name


def test_loading_a_model_is_measured_and_a_table_is_printed(tmp_path, capsys):
    tiny.save_model(tmp_path / "model")
    config = {**CONFIG, "model_name_or_path": str(tmp_path / "model"), "output_dir": str(tmp_path / "out")}
    tkernel.run(config, train_dataset=ROWS, plugins=["resources"])
    printed = capsys.readouterr().out
    for text in ("load_model policy", "adapt", "train_stage", "tokens/s"):
        assert text in printed, text

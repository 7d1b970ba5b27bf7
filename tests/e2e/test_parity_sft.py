"""`sft` on real data against LLaMA-Factory's batches and losses (`golden/README.md`)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import tkernel

STEPS = 3
"""Steps of the real model that the test takes; each costs about 25 CPU seconds."""


def settings(shared: Path, output_dir: Path, name: str = "sft_fp32", **changes: Any) -> dict[str, Any]:
    """The settings of the run `name`; only the model, the folders and `changes` are replaced."""
    golden = json.loads((shared / "golden/losses.json").read_text())[name]["settings"]
    folders = {"dataset_dir": str(shared / "data"), "output_dir": str(output_dir)}
    return {**golden, **folders, **changes}


def golden_batches(shared: Path) -> list[dict[str, Any]]:
    with gzip.open(shared / "golden/batches_sft_fp32.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def recorder() -> tuple[Any, list[dict[str, Any]]]:
    """A callback that records what the model is given in training, and the records."""
    from transformers import TrainerCallback

    batches: list[dict[str, Any]] = []

    def record(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if module.training:
            names = ("input_ids", "labels", "attention_mask")
            batches.append({name: inputs[name].tolist() for name in names})

    class Recorder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.register_forward_pre_hook(record, with_kwargs=True)

    return Recorder(), batches


def assert_same(seen: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for number, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        for name in ours:
            assert ours[name] == theirs[name], f"{name} of micro-batch {number}"


@pytest.mark.slow
def test_micro_batches_are_those_of_the_golden_run_in_that_order(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tkernel.testing import tiny

    tokenizer = AutoTokenizer.from_pretrained(shared / "golden/smollm2-tokenizer")
    model = tiny.make_model(
        "llama", tokenizer=tokenizer, hidden_size=8, intermediate_size=8, num_hidden_layers=1
    )
    callback, seen = recorder()
    config = settings(shared, tmp_path / "out", finetuning_type="full")
    for name in ("model_name_or_path", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"):
        del config[name]
    tkernel.run(config, model=model, tokenizer=tokenizer, callbacks=[callback])
    assert_same(seen, golden_batches(shared))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_losses_are_those_of_the_golden_run(shared: Path, smollm2: Path, tmp_path: Path) -> None:
    callback, seen = recorder()
    config = settings(
        shared,
        tmp_path / "out",
        model_name_or_path=str(smollm2),
        adapter_name_or_path=str(shared / "golden/sft_init_adapter"),
    )

    class Stop(type(callback)):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= STEPS

    tkernel.run(config, callbacks=[Stop()])
    assert_same(seen, golden_batches(shared)[: 4 * STEPS])
    golden = json.loads((shared / "golden/losses.json").read_text())["sft_fp32"]["steps"][:STEPS]
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    assert [s["loss"] for s in steps[:2]] == pytest.approx([s["loss"] for s in golden[:2]], abs=1e-3)
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in golden], rel=1e-2)
    assert [s["learning_rate"] for s in steps] == [s["learning_rate"] for s in golden]
    counted = [s["num_input_tokens_seen"] for s in steps]
    assert counted == [s["num_input_tokens_seen"] for s in golden]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_losses_in_bf16_are_those_of_the_golden_run(shared: Path, smollm2: Path, tmp_path: Path) -> None:
    config = settings(
        shared,
        tmp_path / "out",
        "sft_bf16",
        model_name_or_path=str(smollm2),
        adapter_name_or_path=str(shared / "golden/sft_init_adapter"),
    )
    tkernel.run(config)
    golden = json.loads((shared / "golden/losses.json").read_text())["sft_bf16"]["steps"]
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in golden], rel=5e-3)

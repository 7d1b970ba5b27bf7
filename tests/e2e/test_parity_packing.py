"""Packed `sft` on real data against LLaMA-Factory's losses (`golden/README.md`)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import tkernel


def run(
    shared: Path, smollm2: Path, output_dir: Path, *callbacks: Any, **changes: Any
) -> tuple[Any, list[Any]]:
    """The settings of `sft_packing` but for model, folders and `changes`: the trained model, the log of each step."""
    golden = json.loads((shared / "golden/losses.json").read_text())["sft_packing"]["settings"]
    config = {
        **golden,
        "dataset_dir": str(shared / "data"),
        "output_dir": str(output_dir),
        "model_name_or_path": str(smollm2),
        "adapter_name_or_path": str(shared / "golden/sft_init_adapter"),
    }
    result = tkernel.run({**config, **changes}, callbacks=callbacks)
    state = json.loads((output_dir / "trainer_state.json").read_text())
    return result.bundle.module, [entry for entry in state["log_history"] if "loss" in entry]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_losses_of_packed_rows_are_those_of_the_golden_run(
    shared: Path, smollm2: Path, tmp_path: Path
) -> None:
    golden = json.loads((shared / "golden/losses.json").read_text())["sft_packing"]["steps"]
    _, steps = run(shared, smollm2, tmp_path / "out")
    # The learning rate of the first step is 0, so two losses are of the same weights.
    assert [s["loss"] for s in steps[:2]] == pytest.approx([s["loss"] for s in golden[:2]], abs=1e-3)
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in golden], rel=5e-3)
    assert [s["learning_rate"] for s in steps] == [s["learning_rate"] for s in golden]
    # LLaMA-Factory counts the padding of every row too.
    assert [s["num_input_tokens_seen"] for s in steps] == [s["num_input_tokens_seen"] for s in golden]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_neat_packed_step_has_the_loss_of_its_samples_alone(
    shared: Path, smollm2: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import TrainerCallback

    rows: list[dict[str, torch.Tensor]] = []

    class Recorder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.register_forward_pre_hook(lambda _, args, inputs: rows.append(inputs), with_kwargs=True)

    module, (step,) = run(shared, smollm2, tmp_path / "out", Recorder(), neat_packing=True, max_steps=1)
    module.eval()
    total, count = 0.0, 0
    trained = list(rows)
    assert len(trained) == 2
    for row in trained:
        starts = [*row["position_ids"][0].eq(0).nonzero().flatten().tolist(), row["input_ids"].shape[1]]
        for start, end in pairwise(starts):
            ids, labels = row["input_ids"][:, start:end], row["labels"][:, start + 1 : end]
            learned = int(labels.ne(-100).sum())
            if learned:
                with torch.no_grad():
                    logits = module(input_ids=ids).logits[:, :-1]
                total += torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), reduction="sum"
                ).item()
                count += learned
    assert step["loss"] == pytest.approx(total / count, abs=1e-4)

"""`pt` on real data against LLaMA-Factory's batches and losses (`golden/README.md`)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import tkernel


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_blocks_and_losses_are_those_of_the_golden_run(shared: Path, smollm2: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    seen: list[dict[str, Any]] = []

    def record(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        names = ("input_ids", "labels", "attention_mask")
        seen.append({name: inputs[name].tolist() for name in names})

    class Recorder(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.register_forward_pre_hook(record, with_kwargs=True)

    golden = json.loads((shared / "golden/losses.json").read_text())["pt_c4"]
    replaced = {
        "dataset_dir": str(shared / "data"),
        "output_dir": str(tmp_path / "out"),
        "model_name_or_path": str(smollm2),
        "adapter_name_or_path": str(shared / "golden/sft_init_adapter"),
    }
    tkernel.run({**golden["settings"], **replaced}, callbacks=[Recorder()])
    with gzip.open(shared / "golden/batches_pt_c4.jsonl.gz", "rt") as file:
        batches = [json.loads(line) for line in file]
    for number, (ours, theirs) in enumerate(zip(seen, batches, strict=True)):
        for name in ours:
            assert ours[name] == theirs[name], f"{name} of micro-batch {number}"
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    # The learning rate of the first step is 0, so two losses are of the same weights.
    assert [s["loss"] for s in steps[:2]] == pytest.approx([s["loss"] for s in golden["steps"][:2]], abs=1e-3)
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in golden["steps"]], rel=5e-3)
    for name in ("learning_rate", "num_input_tokens_seen"):
        assert [s[name] for s in steps] == [s[name] for s in golden["steps"]]

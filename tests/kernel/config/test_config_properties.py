"""What holds for any typo and any file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tkernel.config import json_text
from tkernel.config.suggest import near
from tkernel_plugins.keys import unowned

KEYS = sorted(json.loads(Path(unowned.__file__).with_name("llamafactory.json").read_text()))

LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz_0123456789")


@st.composite
def typos(draw: st.DrawFn) -> tuple[str, str]:
    key = draw(st.sampled_from([key for key in KEYS if len(key) > 4]))
    at = draw(st.integers(0, len(key) - 2))
    letter = draw(LETTERS)
    kind = draw(st.sampled_from(["drop", "swap", "add", "replace", "case", "dash"]))
    typo = {
        "drop": key[:at] + key[at + 1 :],
        "swap": key[:at] + key[at + 1] + key[at] + key[at + 2 :],
        "add": key[:at] + letter + key[at:],
        "replace": key[:at] + letter + key[at + 1 :],
        "case": key.upper(),
        "dash": key.replace("_", "-"),
    }[kind]
    return key, typo


@settings(max_examples=400)
@given(typos())
def test_any_typo_of_a_known_key_suggests_that_key(case: tuple[str, str]) -> None:
    key, typo = case
    assume(typo not in KEYS)
    assert key in near(typo, KEYS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), json_values), st.sampled_from([None, 1, "\t"]))
def test_json_with_lines_reads_what_json_reads(value: dict[str, object], indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    found = json_text.loads(text)
    assert found == value
    lines = text.split("\n")
    assert all(json.dumps(key, ensure_ascii=False) in lines[found.lines[key] - 1] for key in value)


@given(st.text())
def test_json_with_lines_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            json_text.loads(text)
    else:
        assert repr(json_text.loads(text)) == repr(expected)  # NaN equals nothing


LLAMA_FACTORY_FILE = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
deepspeed: examples/deepspeed/ds_z3_config.json  # choices: [ds_z0_config.json, ds_z2_config.json]

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""

PROGRAM = """
import sys
from dataclasses import dataclass
from tkernel.config.bind import Owner, bind
from tkernel.config.settle import settle
from tkernel_plugins.keys.argument_keys import training_arguments
from tkernel.errors import ConfigError

@dataclass(frozen=True)
class Options:
    trust_remote_code: bool = False
    lora_rank: int = 8
    lora_target: str = "all"
    cutoff_len: int = 2048
    max_samples: int | None = None
    preprocessing_num_workers: int | None = None
    plot_loss: bool = False

arguments = training_arguments(None)
try:
    bound = bind(settle(sys.argv[1], sys.argv[2:], {}), [Owner("stage:sft", "tkernel", Options)], arguments)
    print(sorted(bound.arguments), bound.notes)
except ConfigError as error:
    print(error)
heavy = ["torch", "transformers", "datasets", "numpy", "rich", "trl", "peft", "pyarrow"]
print([name for name in heavy if name in sys.modules])
"""


def bind_in_a_new_process(folder: Path, *words: str) -> list[str]:
    (folder / "train.yaml").write_text(LLAMA_FACTORY_FILE)
    command = [sys.executable, "-c", PROGRAM, "train.yaml", *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="reads transformers' source, which `make test-kernel` does without",
)
def test_a_llamafactory_file_is_bound_unchanged_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    bound, heavy = bind_in_a_new_process(tmp_path)
    assert "'warmup_steps'" in bound
    assert "train.yaml:36: warmup_ratio is now warmup_steps: below 1 it is a share of all steps" in bound
    assert heavy == "[]"


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="reads transformers' source, which `make test-kernel` does without",
)
def test_a_mistake_is_told_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    said = bind_in_a_new_process(tmp_path, "learnin_rate=1", "lr_scheduler_type=cosin")
    # transformers adds to them now and then.
    kinds = "linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, "
    assert said.pop(2).startswith(f"    Did you mean 'cosine'? It takes: {kinds}")
    assert said == [
        "2 problems in the configuration",
        "  command line: lr_scheduler_type cannot be 'cosin'",
        "  command line: unknown key 'learnin_rate'",
        "    Did you mean 'learning_rate'?",
        "[]",
    ]

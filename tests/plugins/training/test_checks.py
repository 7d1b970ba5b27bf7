"""What can be known of a training run while it is planned is told then, with its line and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tkernel.config.options import RunOptions
from tkernel.errors import ConfigError
from tkernel.planning import open_session
from tkernel.testing import tiny
from tkernel.types.check import CheckRequest
from tkernel_plugins.stages.sft import Options
from tkernel_plugins.training import devices
from tkernel_plugins.training.checks import check_metric, check_training

PLAN = """
import sys
from tkernel.errors import TkError
from tkernel.pipeline import open_session
try:
    open_session("run.yaml")
except TkError as error:
    print(error)
    print("code", error.exit_code)
print("heavy:", [name for name in ("torch", "transformers", "datasets", "numpy", "peft") if name in sys.modules])
"""

RUN = """\
model_name_or_path: model
dataset: rows.jsonl
output_dir: rows.jsonl/out
fp16: true
bf16: true
eval_strategy: steps
early_stopping_steps: 0
lr_scheduler_type: cosine_with_min_lr
optim: lomo
max_steps: 0
deepspeed: zero.json
report_to: neptune
resume_from_checkpoint: nowhere
learning_rate: .inf
per_device_train_batch_size: 1e30
"""


def test_every_conflict_is_an_error_at_its_line_before_torch_is_imported(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "run.yaml").write_text(RUN)
    done = subprocess.run(
        [sys.executable, "-c", PLAN], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[-2:] == ["code 2", "heavy: []"]
    for expected in (
        "run.yaml:3: `output_dir: rows.jsonl/out` cannot be written: a file is in the way",
        "run.yaml:4: `fp16` and `bf16` are both true",
        "run.yaml:6: `eval_strategy: steps` asks for evaluation and there is nothing to evaluate on",
        "run.yaml:7: early_stopping_steps must be at least 1, not 0",
        "run.yaml:8: `lr_scheduler_type: cosine_with_min_lr` needs min_lr or min_lr_rate, one of the two",
        "run.yaml:9: `optim: lomo` needs lomo-optim, which is not installed",
        "run.yaml:10: `max_steps: 0` takes no step",
        "run.yaml:11: `deepspeed` is not installed",
        "run.yaml:12: `report_to: neptune` needs neptune, which is not installed",
        "run.yaml:13: `resume_from_checkpoint: nowhere` is no checkpoint: the folder does not exist",
        "run.yaml:14: learning_rate must be a finite number, not .inf",
        "run.yaml:15: per_device_train_batch_size must be at most 2147483647, not 1e30",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, done.stdout)


def test_options_that_contradict_each_other_do_not_hide_what_else_is_wrong(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    lines = ("packing: false", "neat_packing: true", "val_size: 1.5", "eval_strategy: steps", "max_steps: 0")
    (tmp_path / "run.yaml").write_text("\n".join([*RUN.splitlines()[:2], "output_dir: out", *lines]))
    with pytest.raises(ConfigError) as error:
        open_session(
            tmp_path / "run.yaml",
            overrides=[
                f"model_name_or_path={tmp_path / 'model'}",
                f"dataset={tmp_path / 'rows.jsonl'}",
            ],
        )
    told = [(problem.origin, problem.key) for problem in error.value.problems]
    file = tmp_path / "run.yaml"
    # What `eval_strategy` needs may be in `val_size`, which is wrong already.
    assert told == [(f"{file}:5", "neat_packing"), (f"{file}:6", "val_size"), (f"{file}:8", "max_steps")]


def found(
    options: Options | None = None, train: tuple[str, ...] = ("a",), eval: tuple[str, ...] = (), **arguments
):
    request = CheckRequest(options or Options(), RunOptions(), arguments, train=train, eval=eval)
    return {problem.key: problem.message for problem in reversed(list(check_training(request)))}


def test_fsdp_needs_the_processes_of_a_distributed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert "this one has no others" in found(fsdp="full_shard")["fsdp"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert found(fsdp="full_shard") == {}


def test_a_sound_run_has_no_problem() -> None:
    assert found() == {}
    assert found(eval=("b",), eval_strategy="steps", load_best_model_at_end=True, save_steps=20) == {}
    assert (
        found(
            Options(val_size=0.1), eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True
        )
        == {}
    )


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ({"logging_steps": 2.5}, "logging_steps", "neither a whole number nor a share"),
        ({"fp16_full_eval": True, "bf16_full_eval": True}, "fp16_full_eval", "both true"),
        ({"fp16": True, "use_cpu": True}, "fp16", "`use_cpu` is set"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", "there are none"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type", "follows the evaluation"),
        ({"fsdp": "full_shrd auto_wrap"}, "fsdp", "does not know 'full_shrd'"),
        ({"debug": "underflow"}, "debug", "does not know 'underflow'"),
        ({"fsdp_config": "no.json"}, "fsdp_config", "there is no file no.json"),
        ({"accelerator_config": '{"split": 1}'}, "accelerator_config", "no entry 'split'"),
        ({"lr_scheduler_kwargs": "{min_lr: 1}"}, "lr_scheduler_kwargs", "is not JSON"),
        ({"gradient_checkpointing_kwargs": "5"}, "gradient_checkpointing_kwargs", "wants a mapping, not 5"),
        ({"parallelism_config": "tp"}, "parallelism_config", "only Python code can give"),
        ({"torch_compile_backend": "inductr"}, "torch_compile_backend", "does not know 'inductr'"),
        (
            {"torch_compile_backend": "INDUCTOR", "torch_compile_mode": "max"},
            "torch_compile_mode",
            "does not know 'max'",
        ),
        ({"optim_args": "beta3"}, "optim_args", "'beta3' sets nothing"),
        ({"eval_on_start": True}, "eval_on_start", "there is nothing to evaluate on"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycle": 2}'},
            "lr_scheduler_kwargs",
            "no parameter 'num_cycle'",
        ),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 2}},
            "lr_scheduler_kwargs",
            "no parameter 'num_cycle'",
        ),
        (
            {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "lr_scheduler_kwargs",
            "no parameter 'num_cycles'",
        ),
        ({"load_best_model_at_end": True}, "load_best_model_at_end", "strategy to match"),
        ({"save_strategy": "best"}, "save_strategy", "needs a metric"),
        ({"do_train": True}, "dataset", "nothing to train on"),
        ({"optim": "galore_adamw"}, "optim", "needs"),
        ({"report_to": ["tensorboard", "all"]}, "report_to", "all and none are no trackers"),
        ({"remove_unused_columns": True}, "remove_unused_columns", "is always false here"),
        ({"train_sampling_strategy": "group_by_length"}, "disable_shuffling", "contradict"),
    ],
)
def test_a_conflict_is_told_at_the_key_that_mends_it(arguments, key, message) -> None:
    if key == "dataset":
        problems = found(train=(), eval=("b",), **arguments)
    else:
        problems = found(Options(disable_shuffling=key == "disable_shuffling"), **arguments)
    assert message in problems[key]


@pytest.mark.parametrize(
    ("save", "evaluate", "fits"),
    [(20, 10, True), (15, 10, False), (0.2, 0.1, True), (0.25, 0.1, False), (20, 0.1, False)],
)
def test_the_best_model_is_among_the_saved_ones_only_if_each_of_these_is_evaluated(
    save, evaluate, fits
) -> None:
    steps = {"save_steps": save, "eval_steps": evaluate, "eval_strategy": "steps"}
    problems = found(eval=("b",), load_best_model_at_end=True, **steps)
    assert ("load_best_model_at_end" not in problems) is fits


def test_a_share_split_off_and_other_data_to_evaluate_on_exclude_each_other() -> None:
    assert "val_size" in found(Options(val_size=0.1), eval=("b",))


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize(
    "optim", ["adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "rmsprop_bnb", "lion_8bit"]
)
def test_an_optimizer_whose_package_is_missing_names_it(optim) -> None:
    assert found(optim=optim)["optim"] == f"`optim: {optim}` needs bitsandbytes, which is not installed"


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop"])
def test_an_optimizer_of_torch_or_transformers_needs_nothing(optim) -> None:
    assert found(optim=optim) == {}


def test_pushing_to_the_hub_needs_a_network_and_a_token(tmp_path: Path) -> None:
    code = (
        "from tkernel.types.check import CheckRequest\n"
        "from tkernel_plugins.training.checks import check_training\n"
        "for problem in check_training(CheckRequest(arguments={'push_to_hub': True})): print(problem.message)\n"
    )

    def told(**environment: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environ = {**clean, "HF_HOME": str(tmp_path), **environment}
        return subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True
        ).stdout

    assert told(HF_TOKEN="x") == ""
    assert "there is none" in told()
    assert "HF_HUB_OFFLINE is set" in told(HF_TOKEN="x", HF_HUB_OFFLINE="1")
    (tmp_path / "token").write_text("x")
    assert told() == ""


def test_the_absence_of_a_gpu_is_certain_only_without_any_device_file(tmp_path: Path) -> None:
    nodes = (str(tmp_path / "nvidia*"),)
    assert devices.no_device(nodes, "linux") == "this machine has no device file of a GPU"
    assert devices.no_device(nodes, "darwin") is None
    (tmp_path / "nvidia0").touch()
    assert devices.no_device(nodes, "linux") is None


@pytest.mark.parametrize(
    ("given", "each", "right"),
    [
        ("loss", False, True),
        ("eval_loss", False, True),
        ("eval_kl", False, True),
        ("eval_samples_per_second", False, True),
        ("los", False, False),
        ("eval_a_loss", False, False),
        ("a_loss", True, True),
        ("eval_a_kl", True, True),
        ("eval_loss", True, False),
        ("eval_c_loss", True, False),
    ],
)
def test_the_metric_that_models_are_compared_by_is_one_that_is_evaluated(given, each, right) -> None:
    options = Options(eval_on_each_dataset=each)
    request = CheckRequest(options, RunOptions(), {"metric_for_best_model": given}, eval=("a", "b"))
    problems = list(check_metric(request, "kl"))
    assert (problems == []) is right
    assert all("eval_" in problem.hint and problem.key == "metric_for_best_model" for problem in problems)

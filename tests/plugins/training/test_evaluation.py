"""Evaluation in whole runs: what is reported, which model is kept, and when a run stops early."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from run_kit import SETTINGS, make_folder
from safetensors.torch import load_file

import tkernel
from tkernel.errors import ConfigError, TkError

EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "compute_accuracy": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_folder(tmp_path_factory.mktemp("evaluation"))
    rows = (made / "rows.jsonl").read_text().splitlines(keepends=True)
    (made / "first.jsonl").write_text("".join(rows[:3]))
    (made / "second.jsonl").write_text("".join(rows[3:8]))
    return made


def run(folder: Path, name: str, **changes: Any) -> tuple[Any, list[dict[str, float]]]:
    """The result, and the evaluations in the state's history."""
    paths = {key: str(folder / SETTINGS[key]) for key in ("model_name_or_path", "dataset")}
    settings = {**SETTINGS, **paths, **EVALUATING, "output_dir": str(folder / name), **changes}
    for key in ("dataset", "eval_dataset"):
        if isinstance(settings.get(key), list):
            settings[key] = [str(folder / file) for file in settings[key]]
    result = tkernel.run(settings)
    history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
    return result, [line for line in history if any(key.startswith("eval_") for key in line)]


@pytest.mark.parametrize(
    ("metric", "best_of"), [("eval_loss", min), ("eval_accuracy", max), ("perplexity", min)]
)
def test_the_best_model_by_a_metric_is_the_result_and_its_checkpoint_is_kept(
    folder: Path, metric: str, best_of: Any
) -> None:
    changes = {"load_best_model_at_end": True, "metric_for_best_model": metric, "save_total_limit": 1}
    name = f"best-{metric}"
    held_out = ["first.jsonl"]
    result, evaluated = run(
        folder, name, eval_dataset=held_out, learning_rate=0.08, lr_scheduler_type="constant", **changes
    )
    key = f"eval_{metric.removeprefix('eval_')}"
    values = [line[key] for line in evaluated if line["step"]]
    first = next(line for line in evaluated if line[key] == best_of(values))
    assert len({round(value, 6) for value in values}) > 1
    kept = list((folder / name).glob("checkpoint-*"))
    assert f"checkpoint-{first['step']}" in [path.name for path in kept]
    best = load_file(folder / name / f"checkpoint-{first['step']}" / "adapter_model.safetensors")
    saved = load_file(folder / name / "adapter_model.safetensors")
    assert all(torch.equal(best[key], saved[key]) for key in best)
    assert result.metrics[key] == pytest.approx(best_of(values))
    again, _ = run(folder, name, eval_dataset=held_out, learning_rate=0.08, lr_scheduler_type="constant",
                   resume_from_checkpoint=True, **changes)  # fmt: skip
    assert again.metrics[key] == result.metrics[key]


def test_perplexity_and_accuracy_are_reported_with_the_loss(folder: Path) -> None:
    result, evaluated = run(folder, "reported", eval_dataset=["first.jsonl"], max_steps=2)
    stored = json.loads((folder / "reported" / "eval_results.json").read_text())
    assert stored["eval_perplexity"] == pytest.approx(math.exp(stored["eval_loss"]))
    assert 0 <= stored["eval_accuracy"] <= 1
    assert result.metrics["eval_perplexity"] == evaluated[-1]["eval_perplexity"]


def test_each_dataset_is_evaluated_and_one_of_them_may_choose_the_best_model(folder: Path) -> None:
    changes = {"eval_dataset": ["first.jsonl", "second.jsonl"], "eval_on_each_dataset": True}
    names = [str(folder / file) for file in ("first.jsonl", "second.jsonl")]
    metric = f"eval_{names[1]}_loss"
    _, evaluated = run(
        folder, "each", load_best_model_at_end=True, metric_for_best_model=metric, max_steps=4, **changes
    )
    together = {key for line in evaluated for key in line}
    assert {f"eval_{name}_loss" for name in names} | {f"eval_{name}_accuracy" for name in names} <= together
    with pytest.raises(TkError, match="no single loss"):
        run(folder, "none", load_best_model_at_end=True, **changes)


def test_early_stopping_goes_on_counting_after_a_run_was_stopped(folder: Path) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    changes = {
        "early_stopping_steps": 2,
        "learning_rate": 0.5,
        "max_steps": 40,
        "eval_dataset": ["first.jsonl"],
    }
    whole, evaluated = run(folder, "early", **changes)
    assert whole.steps < 40
    paths = {key: str(folder / SETTINGS[key]) for key in ("model_name_or_path", "dataset")}
    settings = {**SETTINGS, **paths, **EVALUATING, **changes, "output_dir": str(folder / "stopped")}
    settings["eval_dataset"] = str(folder / "first.jsonl")
    with pytest.raises(KeyboardInterrupt):
        tkernel.run(settings, callbacks=[Stop()])
    resumed, again = run(folder, "stopped", resume_from_checkpoint=True, **changes)
    assert resumed.steps == whole.steps
    assert [line["eval_loss"] for line in again] == [line["eval_loss"] for line in evaluated]
    finished, _ = run(folder, "stopped", resume_from_checkpoint=True, **changes)
    assert finished.steps == whole.steps


def test_a_metric_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(TkError, match="which is not computed"):
        run(
            folder,
            "no",
            eval_dataset=["first.jsonl"],
            metric_for_best_model="accuracy",
            compute_accuracy=False,
        )
    with pytest.raises(ConfigError, match=r"`metric_for_best_model: f1` is not evaluated(.|\n)*eval_loss"):
        run(folder, "no", eval_dataset=["first.jsonl"], metric_for_best_model="f1")
    # Which of the metrics of a stage a loss leaves out is known when it is evaluated.
    with pytest.raises(TkError, match="`metric_for_best_model: perplexity` is not among the metrics"):
        run(
            folder,
            "no",
            eval_dataset=["first.jsonl"],
            metric_for_best_model="perplexity",
            use_dft_loss=True,
        )

"""Layers: file < environment < command line, each value with its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tkernel.config.settle import settle


def test_later_layers_win_and_every_layer_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("seed: 1\nlearning_rate: 1e-4\n")
    settings = settle(
        file, ["seed=3", "--seed", "4"], {"TK_ARG_SEED": "2", "TK_ARG_BF16": "yes", "SEED": "9"}
    )
    assert dict(settings) == {"seed": 4, "learning_rate": 1e-4, "bf16": "yes"}
    assert [(s.value, s.origin) for s in settings.history("seed")] == [
        (1, f"{file}:1"),
        (2, "TK_ARG_SEED"),
        (3, "command line"),
        (4, "command line"),
    ]
    assert settings.origin("learning_rate") == f"{file}:2"
    assert settings.origin("nothing") is None


@pytest.mark.parametrize(
    "words",
    [["--learning_rate", "1e-5"], ["--learning_rate=1e-5"], ["learning_rate=1e-5"], ["--learning-rate=1e-5"]],
)
def test_the_three_spellings_of_an_override_are_the_same(words: list[str]) -> None:
    assert dict(settle(None, words, {})) == {"learning_rate": 1e-5}


def test_an_option_without_a_value_is_true_and_a_negative_number_is_a_value() -> None:
    words = ["--bf16", "--max_steps", "-1", "--do_train", "dataset=[a,b]", "--run_name=x=y", "--packing"]
    assert dict(settle(None, words, {})) == {
        "bf16": True,
        "max_steps": -1,
        "do_train": True,
        "dataset": ["a", "b"],
        "run_name": "x=y",
        "packing": True,
    }


def test_a_word_that_is_no_setting_is_a_problem() -> None:
    settings = settle({"seed": 1}, ["other.yaml", "-x", "seed=2"], {})
    assert [str(problem) for problem in settings.problems] == [
        "command line: 'other.yaml' is no setting\n    Write `key=value`, `--key value` or `--key=value`.",
        "command line: '-x' is no setting\n    Write `key=value`, `--key value` or `--key=value`.",
    ]
    assert settings["seed"] == 2
    assert settings.history("seed")[0].origin == "settings"

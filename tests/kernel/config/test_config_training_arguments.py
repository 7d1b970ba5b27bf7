"""Fields of a dataclass, read from source."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.errors import MissingRequirement
from tkernel_plugins.keys.training_arguments import read_arguments


def test_fields_defaults_and_choices_are_those_of_the_source(package: Path) -> None:
    fields = read_arguments("hugging.arguments:TrainingArguments").fields
    assert (fields["learning_rate"].annotation, fields["learning_rate"].default) == ("float", "5e-05")
    assert fields["seed"].origin.endswith("base.py")
    assert fields["eval_strategy"].choices == ("no", "steps", "epoch")
    assert fields["optim"].choices == ("adamw", "sgd")
    assert fields["level"].choices == ()
    assert fields["fsdp"].annotation == "str | None | bool"
    assert fields["labels"].default == "list()"
    assert {"shared", "private", "_hidden"}.isdisjoint(fields)


def test_base_classes_are_followed_through_packages(package: Path) -> None:
    fields = read_arguments("hugging.deep.config:Config").fields
    assert {"output_dir", "bf16", "beta"} <= set(fields)
    assert fields["learning_rate"].default == "1e-06"
    assert "hugging" not in sys.modules


def test_a_missing_package_is_told_with_the_pip_command(package: Path) -> None:
    with pytest.raises(MissingRequirement) as caught:
        read_arguments("tk_nowhere.arguments:Arguments")
    assert str(caught.value) == (
        "the training arguments are those of tk_nowhere.arguments:Arguments, and tk_nowhere is not installed\n"
        "  pip install 'tkernel[train]'"
    )
    with pytest.raises(
        MissingRequirement, match=r"^the installed hugging has no class hugging\.arguments:Nothing"
    ):
        read_arguments("hugging.arguments:Nothing")


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_the_installed_training_arguments_are_read_as_python_sees_them() -> None:
    code = (
        "import dataclasses, transformers\n"
        "for f in dataclasses.fields(transformers.TrainingArguments):\n    if f.init: print(f.name)"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    fields = read_arguments("transformers.training_args:TrainingArguments").fields
    assert sorted(seen) == sorted(fields)
    assert "cosine" in fields["lr_scheduler_type"].choices
    assert "adamw_torch" in fields["optim"].choices


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl")
@pytest.mark.parametrize("target", ["trl.trainer.dpo_config:DPOConfig", "trl.trainer.sft_config:SFTConfig"])
def test_trl_configs_have_the_fields_of_transformers_too(target: str) -> None:
    fields = read_arguments(target).fields
    assert {"learning_rate", "save_steps", "max_length"} <= set(fields)
    assert "trl" in fields["max_length"].origin

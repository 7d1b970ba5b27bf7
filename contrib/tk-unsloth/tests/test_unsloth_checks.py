"""What is told while a run is planned. unsloth need not be installed for these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.types.check import CheckRequest
from tkernel.types.facts import ModelFacts
from tkernel_plugins.adapters.lora import LoraOptions

FOLDER = Path(__file__).parents[1]
sys.path.insert(0, str(FOLDER))

from tk_unsloth import LORA, MODEL, Options  # noqa: E402
from tk_unsloth.checks import device_problems  # noqa: E402

FACTS = ModelFacts("tiny", "folder", "tiny", "llama", chat_template="{{ messages }}")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One process without a GPU."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("UNSLOTH_FORCE_CPU", "1")


def model_keys(facts=FACTS, arguments=(), **settings) -> list[str]:
    options = Options(**{k: v for k, v in settings.items() if k in Options.__dataclass_fields__})
    request = CheckRequest(options, arguments=dict(arguments), settings=settings, facts=facts)
    return [problem.key for problem in MODEL.check(request)]


def lora_keys(**options) -> list[str]:
    return [problem.key for problem in LORA.check(CheckRequest(LoraOptions(**options), settings=options))]


def test_a_run_that_unsloth_can_do_has_no_problem():
    assert model_keys() == []
    assert model_keys(finetuning_type="full", use_unsloth_gc=True, neat_packing=True) == []
    assert lora_keys(use_rslora=True, additional_target="embed_tokens,lm_head", lora_dropout=0.1) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"finetuning_type": "freeze"},
        {"stage": "grpo"},
        {"rope_scaling": "linear"},
        {"flash_attn": "sdpa"},
        {"device_map": "auto"},
        {"upcast_layernorm": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_it_cannot_do_is_a_problem_with_its_key(settings):
    assert model_keys(**settings) == list(settings)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert model_keys() == ["model_name_or_path"]


def test_an_optimizer_that_unsloth_would_silently_replace_is_refused():
    assert model_keys(arguments={"optim": "paged_adamw_8bit"}) == ["optim"]


def test_separated_samples_and_use_cpu_are_refused_where_there_may_be_a_gpu():
    joined = {"neat_packing": True, "padding_free": True}
    found = device_problems(joined, {"use_cpu": True}, no_gpu=None)
    assert [problem.key for problem in found] == ["use_cpu", "neat_packing", "padding_free"]
    assert list(device_problems(joined, {"use_cpu": True}, no_gpu="this machine has none")) == []


def test_dora_and_other_whole_modules_are_refused():
    assert lora_keys(use_dora=True) == ["use_dora"]
    assert lora_keys(additional_target="norm,mlp") == ["additional_target"]


def test_a_model_without_chat_template_needs_a_named_one():
    bare = ModelFacts("tiny", "folder", "tiny", "llama")
    assert model_keys(bare) == ["template"]
    assert model_keys(bare, template="llama3") == []


def test_it_serves_text_models_of_its_families():
    assert MODEL.accepts(FACTS)
    assert not MODEL.accepts(ModelFacts("x", "folder", "x", "gpt2"))
    assert not MODEL.accepts(ModelFacts("x", "folder", "x", "llama", config={"vision_config": {}}))


def test_the_plugins_import_nothing_heavy_and_ask_for_unsloth_first():
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import tk_unsloth, tk_unsloth.checks;"
        "print([m for m in ('torch', 'transformers', 'peft', 'unsloth', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert MODEL.import_first == LORA.import_first == ("unsloth",)

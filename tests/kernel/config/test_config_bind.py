"""Every key has one owner and a value of its type; all problems at once, in the words a user reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from config_plugins import LORA, SFT, PrepareOptions

from tkernel.config.bind import Bound, Key, Owner, bind, run_options
from tkernel.config.options import RunOptions
from tkernel.config.settle import settle
from tkernel.errors import ConfigError, InvalidPlugin


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def bound(text: str, arguments: dict[str, Key], *owners: Owner, words: tuple[str, ...] = ()) -> Bound:
    Path("train.yaml").write_text(text)
    return bind(settle("train.yaml", words, {}), owners or (LORA, SFT), arguments)


def problems(text: str, arguments: dict[str, Key], *owners: Owner, words: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        bound(text, arguments, *owners, words=words)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_each_key_reaches_its_owner_in_its_type(arguments: dict[str, Key]) -> None:
    got = bound(
        "lora_rank: 16\nlora_target: q_proj,v_proj\nmodules: a, b\npacking: yes\nmask_history: off\n"
        "learning_rate: 1e-4\nbf16: on\nreport_to: none\nresume_from_checkpoint: null\nsave_steps: 0.1\n"
        "run_name: 1.10\nddp_timeout: 1e3\nfsdp: true\noptim: json:dumps\nlr_scheduler_kwargs: {a: 1}\n"
        "dataset: [x, y]\neval_dataset: z, w\nseed: 7\noutput_dir: out\n",
        arguments,
    )
    assert got.options("adapter:lora") == LORA.options(16, None, 0.0, "q_proj,v_proj", ("a", "b"))
    assert got.options("stage:sft") == SFT.options(packing=True, mask_history=False)
    assert got.options("stage:dpo") is None
    assert got.run == RunOptions(dataset=("x", "y"), eval_dataset=("z", "w"), seed=7, output_dir="out")
    assert got.arguments == {
        "learning_rate": 1e-4,
        "bf16": True,
        "report_to": "none",
        "resume_from_checkpoint": None,
        "save_steps": 0.1,
        "run_name": "1.10",
        "ddp_timeout": 1000,
        "fsdp": True,
        "optim": "json:dumps",
        "lr_scheduler_kwargs": {"a": 1},
    }
    assert got.notes == ()
    assert got.keys["lora_rank"].owner == "adapter:lora"
    assert got.keys["learning_rate"].owner == "hugging.arguments:TrainingArguments"
    assert got.keys["seed"].owner == "the kernel"


@pytest.mark.parametrize(
    ("line", "value"), [("true", True), ("false", False), ("out/checkpoint-3", "out/checkpoint-3")]
)
def test_resuming_is_asked_for_by_true_or_by_a_path(
    line: str, value: object, arguments: dict[str, Key]
) -> None:
    got = bound(f"resume_from_checkpoint: {line}\n", arguments)
    assert got.arguments == {"resume_from_checkpoint": value}


def test_the_switch_of_an_extension_is_true_or_false(arguments: dict[str, Key]) -> None:
    Path("train.yaml").write_text("use_fast: maybe\n")
    with pytest.raises(ConfigError, match=r"train.yaml:1: use_fast wants true or false, not 'maybe'"):
        bind(settle("train.yaml", (), {}), (LORA, SFT), arguments, consumed={"use_fast"})


def test_the_switch_of_an_extension_is_a_key_with_a_value_and_is_meant_by_near_misses(
    arguments: dict[str, Key],
) -> None:
    got = bind(settle({"use_fast": True}, (), {}), (LORA, SFT), arguments, consumed={"use_fast"})
    assert got.values == {"use_fast": True}
    assert got.keys["use_fast"].owner == "the kernel"
    with pytest.raises(ConfigError, match=r"unknown key 'use_fst'\n    Did you mean 'use_fast'?"):
        bind(settle({"use_fst": True}, (), {}), (LORA, SFT), arguments, consumed={"use_fast"})


MISTAKES = [
    ("learning_rate: abc", "learning_rate wants a number, not 'abc'"),
    ("learning_rate: -1e-4", "learning_rate must be at least 0, not -1e-4"),
    ("learning_rate: .nan", "learning_rate must be a finite number, not .nan"),
    (
        "learning_rate:",
        "learning_rate is empty, and wants a number\n    Give it a value, or take the line out.",
    ),
    ("learning_rate: true", "learning_rate wants a number, not true"),
    ("packing: yes please", "packing wants true or false, not 'yes please'"),
    ("bf16: 1", "bf16 wants true or false, not 1\n    Write true."),
    ("lora_rank: -1", "lora_rank must be at least 1, not -1"),
    ("lora_rank: 8.5", "lora_rank wants a whole number, not 8.5"),
    ("lora_rank: true", "lora_rank wants a whole number, not true"),
    ("lora_rank: [8]", "lora_rank wants a whole number, not [8]"),
    ("lora_dropout: 1", "lora_dropout must be less than 1, not 1"),
    (
        "lora_target: [q_proj, v_proj]",
        "lora_target wants text, not ['q_proj', 'v_proj']\n    Write it as text: lora_target: q_proj,v_proj",
    ),
    ("modules: [1]", "modules wants a list, not [1]\n    At 0: Input should be a valid string."),
    (
        "truncation: propotional",
        "truncation cannot be 'propotional'\n    Did you mean 'proportional'? It takes: proportional, left, right.",
    ),
    (
        "eval_strategy: step",
        "eval_strategy cannot be 'step'\n    Did you mean 'steps'? It takes: no, steps, epoch.",
    ),
    ("num_train_epochs: 0", "num_train_epochs must be more than 0, not 0"),
    ("per_device_train_batch_size: 0", "per_device_train_batch_size must be at least 1, not 0"),
    ("seed: -1", "seed must be at least 0, not -1"),
    ("learnin_rate: 1e-4", "unknown key 'learnin_rate'\n    Did you mean 'learning_rate'?"),
    ("Lora-Rank: 8", "unknown key 'Lora-Rank'\n    Did you mean 'lora_rank'?"),
    ("xyzzy: 8", "unknown key 'xyzzy'\n    The keys of this run and their owners: tk plan FILE --json"),
    (
        "use_galore: true",
        "use_galore is a LLaMA-Factory key that no installed plugin provides\n    What is installed: tk plugins list",
    ),
    (
        "kt_weight_path: w",
        "kt_weight_path belongs to KTransformers, which tk does not have\n    Take the line out.",
    ),
    ("use_mca: true", "use_mca belongs to Megatron-Core, which tk does not have\n    Take the line out."),
    ("warmup_ratio: 1.5", "warmup_ratio must be less than 1, not 1.5"),
    (
        "save_safetensors: false",
        "save_safetensors is gone from transformers: weights are always saved as safetensors\n    Take the line out.",
    ),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_told_with_its_line(line: str, message: str, arguments: dict[str, Key]) -> None:
    assert problems(f"# comment\n{line}\n", arguments) == [f"train.yaml:2: {message}"]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(arguments: dict[str, Key]) -> None:
    text = "".join(
        f"{line}\n" for line, _ in MISTAKES if not line.startswith(("learning_rate", "lora_", "bf16"))
    )
    told = problems(text + "xyzzy: 9\n", arguments, words=("oops", "lora_rank=0"))
    lines = [int(problem.split(":")[1]) for problem in told if problem.startswith("train.yaml")]
    assert lines == list(range(1, len(lines) + 1))
    assert "command line: lora_rank must be at least 1, not 0" in told
    assert any(problem.startswith("command line: 'oops' is no setting") for problem in told)


def test_the_whole_message_counts_the_problems(arguments: dict[str, Key]) -> None:
    with pytest.raises(ConfigError) as caught:
        bound("lora_rank: 0\nlearnin_rate: 1\n", arguments)
    assert str(caught.value) == (
        "2 problems in the configuration\n"
        "  train.yaml:1: lora_rank must be at least 1, not 0\n"
        "  train.yaml:2: unknown key 'learnin_rate'\n"
        "    Did you mean 'learning_rate'?"
    )


def test_quoted_numbers_and_text_of_the_command_line_are_meant_as_their_type(
    arguments: dict[str, Key],
) -> None:
    got = bound(
        "learning_rate: '5e-5'\n", arguments, words=("--lora_target", "7", "bf16=yes", "lora_alpha=null")
    )
    assert got.arguments == {"learning_rate": 5e-5, "bf16": True}
    assert got.options("adapter:lora").lora_target == "7"
    assert problems("", arguments, words=("lora_target=[a,b]",)) == [
        "command line: lora_target wants text, not [a,b]\n    Write it as text: lora_target: a,b"
    ]
    assert got.options("adapter:lora").lora_alpha is None


def test_older_names_become_todays_with_a_note_each(arguments: dict[str, Key]) -> None:
    got = bound(
        "warmup_ratio: 0.1\nevaluation_strategy: steps\ngroup_by_length: yes\nlogging_dir: logs\nsave_safetensors: true\n"
        "per_gpu_train_batch_size: 2\n",
        arguments,
    )
    assert got.arguments == {
        "warmup_steps": 0.1,
        "eval_strategy": "steps",
        "train_sampling_strategy": "group_by_length",
        "per_device_train_batch_size": 2,
    }
    assert got.environment == {"TENSORBOARD_LOGGING_DIR": "logs"}
    assert got.notes == (
        "train.yaml:1: warmup_ratio is now warmup_steps: below 1 it is a share of all steps",
        "train.yaml:2: evaluation_strategy is now eval_strategy",
        "train.yaml:3: group_by_length is now train_sampling_strategy",
        "train.yaml:4: logging_dir is now the environment variable TENSORBOARD_LOGGING_DIR",
        "train.yaml:5: save_safetensors is no longer needed: weights are always saved as safetensors",
        "train.yaml:6: per_gpu_train_batch_size is now per_device_train_batch_size",
    )


def test_an_older_name_beside_todays_is_a_problem(arguments: dict[str, Key]) -> None:
    assert problems("warmup_ratio: 0.1\nwarmup_steps: 5\n", arguments) == [
        "train.yaml:1: warmup_ratio is an older name of warmup_steps, which train.yaml:2 sets too\n"
        "    Keep one of the two."
    ]
    assert problems("group_by_length: maybe\n", arguments) == [
        "train.yaml:1: group_by_length wants true or false, not 'maybe'"
    ]


def test_a_key_that_the_installed_class_still_has_is_not_renamed(
    package: Path, arguments: dict[str, Key]
) -> None:
    del arguments["warmup_steps"]
    arguments["warmup_ratio"] = replace(arguments["learning_rate"], name="warmup_ratio")
    assert bound("warmup_ratio: 0.1\n", arguments).arguments == {"warmup_ratio": 0.1}


def test_a_llamafactory_key_at_its_default_asks_for_nothing(arguments: dict[str, Key]) -> None:
    got = bound("use_badam: no\ntensor_model_parallel_size: 1\nloraplus_lr_ratio: null\n", arguments)
    assert got.notes == (
        "at LLaMA-Factory's default, so nothing is asked for, and no plugin reads it: use_badam (train.yaml:1), "
        "tensor_model_parallel_size (train.yaml:2), loraplus_lr_ratio (train.yaml:3)",
    )


def test_two_plugins_share_the_keys_of_one_dataclass_and_no_others(arguments: dict[str, Key]) -> None:
    @dataclass(frozen=True)
    class Sharing(PrepareOptions):
        packing: bool | None = True

    @dataclass(frozen=True)
    class Clashing:
        lora_rank: int = 1
        output_dir: str = "x"

    sharing = Owner("extension:pack", "tk-pack", Sharing)
    got = bound("mask_history: true\n", arguments, LORA, SFT, sharing)
    assert got.options("stage:sft").mask_history is got.options("extension:pack").mask_history is True
    clashing = Owner("extension:clash", "tk-clash", Clashing)
    assert problems("seed: 1\n", arguments, LORA, clashing) == [
        "both adapter:lora (tkernel) and extension:clash (tk-clash) declare the key 'lora_rank', "
        "and a key has one owner\n"
        "    Leave one of them out of the run, or let both inherit the dataclass that declares it.",
        "both extension:clash (tk-clash) and the kernel (tkernel) declare the key 'output_dir', "
        "and a key has one owner\n"
        "    Leave one of them out of the run, or let both inherit the dataclass that declares it.",
    ]


def test_a_plugins_option_hides_a_training_argument_of_the_same_name(arguments: dict[str, Key]) -> None:
    @dataclass(frozen=True)
    class Options:
        ddp_timeout: str = ""

    got = bound("ddp_timeout: soon\n", arguments, Owner("engine:x", "tk-x", Options))
    assert got.options("engine:x").ddp_timeout == "soon"
    assert got.arguments == {}


def test_options_whose_types_cannot_be_told_are_an_error_of_the_plugin() -> None:
    @dataclass(frozen=True)
    class Options:
        size: NoSuchType = None  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidPlugin, match=r"^the options of adapter:x \(tk-x\) cannot be read: "):
        bind(settle({}, (), {}), [Owner("adapter:x", "tk-x", Options)])


def test_text_beside_a_literal_is_free_text(arguments: dict[str, Key]) -> None:
    @dataclass(frozen=True)
    class Options:
        space: str | Literal[False] | None = None

    owner = Owner("adapter:x", "tk-x", Options)
    assert bound("space: mine\n", arguments, owner).options("adapter:x").space == "mine"
    assert bound("space: false\n", arguments, owner).options("adapter:x").space is False


def test_what_options_refuse_together_is_a_problem_of_their_plugin(arguments: dict[str, Key]) -> None:
    @dataclass(frozen=True)
    class Options:
        low: int = 1
        high: int = 2

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError(f"low ({self.low}) is above high ({self.high})")

    owner = Owner("adapter:x", "tk-x", Options)
    assert problems("low: 5\n", arguments, owner) == ["train.yaml:1: low (5) is above high (2)"]
    assert problems("seed: 1\nhigh: 0\n", arguments, owner) == ["train.yaml:2: low (1) is above high (0)"]


def test_objects_given_from_python_pass_as_they_are() -> None:
    @dataclass(frozen=True)
    class Options:
        metric: object = None
        paths: tuple[str, ...] = ()

    source = {"metric": len, "output_dir": Path("out"), "paths": ("a", "b")}
    got = bind(settle(source, (), {}), [Owner("stage:x", "tk-x", Options)])
    assert got.options("stage:x") == Options(len, ("a", "b"))
    assert got.run.output_dir == "out"


def test_the_kernels_options_are_known_before_any_plugin_is_chosen() -> None:
    run, wrong = run_options(settle({"dataset": "a,b", "seed": "x", "learning_rate": 1}, ["stage=dpo"], {}))
    assert (run.dataset, run.stage, run.seed) == (("a", "b"), "dpo", 42)
    assert [str(problem) for problem in wrong] == ["settings: seed wants a whole number, not 'x'"]

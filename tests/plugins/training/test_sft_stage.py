"""Stage `sft` in a whole run, from rows to a folder that can be loaded and talked to."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest
import torch

import tkernel
from tkernel.errors import TkError
from tkernel.pipeline import open_engine, open_session
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message
from tkernel.types.requests import EngineRequest
from tkernel_plugins.training.log import read

ROWS = [{"instruction": f"How much is {n} and 1?", "input": "", "output": str(n + 1)} for n in range(12)]


@pytest.fixture
def train(tmp_path):
    """Run `stage: sft` with LoRA on a tiny model in a folder."""
    tiny.save_model(tmp_path / "model")

    def run(name="out", **changes):
        held_out = changes.pop("held_out", None)
        config = {
            "model_name_or_path": str(tmp_path / "model"),
            "finetuning_type": "lora",
            "lora_rank": 4,
            "template": "chatml",
            "output_dir": str(tmp_path / name),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 2,
            "use_cpu": True,
        }
        return tkernel.run({**config, **changes}, train_dataset=ROWS, eval_dataset=held_out)

    return run


def test_the_saved_adapter_says_what_the_trained_model_says(train, tmp_path):
    result = train()
    question = [Conversation((Message("user", "How much is 3 and 1?"),))]
    config = {
        "model_name_or_path": str(tmp_path / "model"),
        "adapter_name_or_path": str(tmp_path / "out"),
        "template": "chatml",
        "do_sample": False,
        "max_new_tokens": 12,
    }
    session = open_session(config)
    loaded = open_engine(session)
    request = EngineRequest(loaded.renderer, result.bundle, options=loaded.options)
    trained = session.active.object(session.choice("engine")).generate(request)
    assert loaded.reply(question) == trained.reply(question)


def test_the_chat_template_of_a_named_template_is_saved_and_the_callers_tokenizer_is_left_alone(
    train, tmp_path
):
    from transformers import AutoTokenizer

    result = train()
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.chat_template != tiny.CHAT_TEMPLATE
    assert result.bundle.tokenizer.chat_template == tiny.CHAT_TEMPLATE


def test_resuming_from_a_checkpoint_gives_the_uninterrupted_adapter(train, tmp_path):
    whole = train()
    again = train("again", resume_from_checkpoint=str(tmp_path / "out/checkpoint-2"))
    trained = {n: p for n, p in whole.bundle.module.named_parameters() if p.requires_grad}
    assert trained
    for name, parameter in again.bundle.module.named_parameters():
        if name in trained:
            assert torch.equal(parameter, trained[name]), name


@pytest.mark.parametrize(
    ("changes", "samples"), [({"val_size": 0.25}, 3), ({"held_out": ROWS[:5], "eval_strategy": "steps"}, 5)]
)
def test_held_out_samples_are_evaluated_and_logged(train, tmp_path, changes, samples):
    result = train(**changes)
    assert result.metrics["eval_loss"] > 0
    rate = result.metrics["eval_samples_per_second"] * result.metrics["eval_runtime"]
    assert rate == pytest.approx(samples, rel=0.05)
    assert any("eval_loss" in line for line in read(tmp_path / "out/trainer_log.jsonl"))
    assert (
        json.loads((tmp_path / "out/eval_results.json").read_text())["eval_loss"]
        == result.metrics["eval_loss"]
    )


def test_the_screen_before_step_1_has_ten_lines(train, capsys):
    train(template="auto")
    screen = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split(" ")[0] for line in screen] == [
        *("model", "trained", "template", "read", "kept", "tokens"),
        *("batch", "steps", "device", "output"),
    ]
    assert "none rejected, none truncated (cutoff_len 2,048)" in screen[4]


def test_the_card_names_model_data_template_parameters_metrics_and_versions(train, tmp_path):
    train()
    card = (tmp_path / "out/README.md").read_text()
    for text in (
        "Base model",
        "library_name: peft",
        "lora rank 4",
        "chatml",
        "learning_rate",
        "train_loss",
        "torch",
    ):
        assert text in card, text
    assert "| Licence |" in card


def test_conflicts_are_told_before_data_is_prepared(train, capsys):
    with pytest.raises(TkError, match="nothing to evaluate on"):
        train(eval_strategy="steps")
    assert "encode" not in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_rows_of_the_users_data(train):
    with pytest.raises(TkError, match="the loss is nan in step"):
        train(learning_rate=1e30, max_grad_norm=0.0, max_steps=8)


def test_gradient_checkpointing_trains_the_same_adapter(train):
    plain, checkpointed = train(), train("again", gradient_checkpointing=True)
    trained = {n: p for n, p in plain.bundle.module.named_parameters() if p.requires_grad}
    for name, parameter in checkpointed.bundle.module.named_parameters():
        if name in trained:
            assert torch.allclose(parameter, trained[name], atol=1e-6), name


def test_the_log_of_a_killed_run_with_half_a_line_can_be_resumed(train, tmp_path):
    train()
    log = tmp_path / "out/trainer_log.jsonl"
    log.write_text(log.read_text() + '{"current_steps": 4, "tot')
    train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-2"), overwrite_output_dir=True)
    assert [line["current_steps"] for line in read(log) if "loss" in line] == [1, 2, 3, 4]


OPTIMIZER = """
import torch

def make(model, arguments):
    print("made for", arguments.learning_rate)
    return torch.optim.SGD(model.parameters(), lr=arguments.learning_rate)

def wrong(model, arguments):
    return "sgd"
"""


def test_an_optimizer_of_a_file_trains_and_is_recorded_with_its_content(train, tmp_path, capsys):
    import hashlib

    file = tmp_path / "mine.py"
    file.write_text(OPTIMIZER)
    train(optim=f"{file}:make", max_steps=2)
    said = capsys.readouterr().out
    assert "made for 0.01" in said
    assert f"{file}:make, learning rate 0.01" in said
    locked = json.loads((tmp_path / "out/run.lock.json").read_text())
    assert (
        locked["hashes"][f"function {file}:make"] == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    )
    state = torch.load(tmp_path / "out/checkpoint-2/optimizer.pt")
    assert "exp_avg" not in str(state["state"])


def test_what_makes_no_optimizer_or_is_not_there_is_an_error(train, tmp_path):
    (tmp_path / "mine.py").write_text(OPTIMIZER)
    with pytest.raises(TkError, match="made a str, not an optimizer"):
        train(optim=f"{tmp_path}/mine.py:wrong")
    with pytest.raises(TkError, match=r"mine\.py has no 'mkae'"):
        train("other", optim=f"{tmp_path}/mine.py:mkae")


def test_pure_bf16_trains_in_bfloat16_alone(train, capsys):
    result = train(pure_bf16=True, max_steps=2)
    assert {p.dtype for p in result.bundle.module.parameters()} == {torch.bfloat16}
    assert "; bfloat16 weights" in capsys.readouterr().out
    assert math.isfinite(result.metrics["train_loss"])


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_losses_that_the_log_has(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(report_to="tensorboard", logging_dir=str(tmp_path / "events"))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    logged = [line for line in read(tmp_path / "out/trainer_log.jsonl") if "loss" in line]
    seen = events.Scalars("train/loss")
    assert [event.step for event in seen] == [line["current_steps"] for line in logged] == [1, 2, 3, 4]
    assert [event.value for event in seen] == pytest.approx([line["loss"] for line in logged], rel=1e-4)

"""A run from a ready trainer to the files in `output_dir`."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch
from training_kit import pad

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel_plugins.training.arguments import resume_of
from tkernel_plugins.training.errors import CheckpointError
from tkernel_plugins.training.log import read
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.session import run

STEPS = {"max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2}


@pytest.fixture
def go(make_request, make_trainer):
    """Run a whole session; the keyword arguments are training arguments."""

    def start(
        *,
        options=None,
        eval_dataset=None,
        output_dir=None,
        bundle=None,
        callbacks=(),
        fused="auto",
        **arguments,
    ):
        request = make_request(
            options=options,
            output_dir=output_dir,
            bundle=bundle,
            held_out=eval_dataset,
            **{**STEPS, **arguments},
        )
        for callback in callbacks:
            request.slots.put("callbacks", callback, by="test")
        accuracy = bool(options and options.compute_accuracy)
        trainer = make_trainer(
            request,
            eval_dataset=eval_dataset,
            accuracy=accuracy,
            fused=fused,
            processing_class=request.bundle.tokenizer,
        )
        return run(trainer, request, resume=resume_of(request), data=["kept       16 samples"])

    return start


def test_the_log_has_the_fields_that_readers_of_trainer_log_know(go, samples, tmp_path):
    go(eval_dataset=samples[:4], eval_strategy="steps", eval_steps=3)
    lines = read(tmp_path / "out/trainer_log.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["current_steps"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0]) == {
        *("current_steps", "total_steps", "loss", "lr", "epoch", "percentage"),
        *("elapsed_time", "remaining_time", "throughput", "total_tokens"),
    }
    assert [line["current_steps"] for line in lines if "eval_loss" in line] == [3, 6]
    assert all("loss" not in line for line in lines if "eval_loss" in line)
    assert steps[2]["percentage"] == 50.0
    assert steps[-1]["remaining_time"] == "0:00:00"


def test_logged_tokens_leave_padding_out(go, samples, tmp_path):
    go(max_steps=4)
    last = read(tmp_path / "out/trainer_log.jsonl")[-1]
    assert last["total_tokens"] == sum(len(sample["input_ids"]) for sample in samples)


def test_output_holds_model_tokenizer_results_state_card_and_curve(go, samples, tmp_path):
    result = go(options=TrainingOptions(plot_loss=True, compute_accuracy=True), eval_dataset=samples[:4])
    out = tmp_path / "out"
    files = {path.name for path in out.iterdir()}
    assert files >= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"),
        *("train_results.json", "eval_results.json", "all_results.json", "trainer_state.json"),
        *("trainer_log.jsonl", "training_loss.png", "chat_template.jinja"),
    }
    merged = json.loads((out / "all_results.json").read_text())
    assert merged["train_loss"] == result.metrics["train_loss"]
    assert merged["eval_accuracy"] == result.metrics["eval_accuracy"]
    assert (out / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert result.steps == 6
    assert "| Template | chatml |" in (out / "README.md").read_text()


def test_saved_generation_config_ends_replies_at_the_stop_ids(go, tmp_path):
    bundle = tiny.make_bundle()
    go(bundle=bundle)
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert saved["eos_token_id"] == [bundle.tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_the_model_keeps_its_own_use_cache_in_memory_and_on_disk(go, tmp_path):
    bundle = tiny.make_bundle()
    assert bundle.module.config.use_cache is True
    go(bundle=bundle, save_strategy="steps", save_steps=3)
    assert bundle.module.config.use_cache is True
    for folder in ("out", "out/checkpoint-3"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["use_cache"] is True


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(go, tmp_path):
    whole = go(save_strategy="steps", save_steps=2)
    other = tmp_path / "other"
    go(output_dir=other, save_strategy="steps", save_steps=2)
    for name in ("checkpoint-6", "checkpoint-4"):
        os.rename(other / name, tmp_path / name)
    bundle = tiny.make_bundle(seed=5)  # the weights must come from the checkpoint
    resumed = go(output_dir=other, bundle=bundle, save_strategy="no", resume_from_checkpoint=True)
    for name, tensor in whole.bundle.module.state_dict().items():
        assert torch.equal(tensor, resumed.bundle.module.state_dict()[name]), name
    losses = [
        [line.get("loss") for line in read(folder / "trainer_log.jsonl")]
        for folder in (tmp_path / "out", other)
    ]
    assert losses[0] == losses[1]


def test_a_resumed_run_logs_and_saves_as_often_as_is_asked_for_now(go, tmp_path):
    go(max_steps=2, save_steps=2, logging_steps=1)
    go(save_steps=3, logging_steps=2, save_strategy="steps", resume_from_checkpoint=True)
    out = tmp_path / "out"
    assert [line["current_steps"] for line in read(out / "trainer_log.jsonl") if "loss" in line] == [
        1,
        2,
        4,
        6,
    ]
    assert {path.name for path in out.glob("checkpoint-*")} == {
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-6",
    }


def test_resuming_falls_back_to_the_newest_whole_checkpoint_and_says_so(go, tmp_path, capsys):
    go(save_strategy="steps", save_steps=2)
    out = tmp_path / "out"
    (out / "checkpoint-6/trainer_state.json").write_text('{"global_step": ')
    weights = (out / "checkpoint-4/model.safetensors").read_bytes()
    (out / "checkpoint-4/model.safetensors").write_bytes(weights[: len(weights) // 2])
    shutil.copytree(out / "checkpoint-4", out / "checkpoint-5")
    (out / "checkpoint-5/manifest.json").unlink()  # as other programs write checkpoints
    go(save_strategy="no", resume_from_checkpoint=True)
    printed = capsys.readouterr().out
    assert "skipped checkpoint-6: trainer_state.json is damaged" in printed
    assert "skipped checkpoint-5: model.safetensors is damaged" in printed
    assert f"skipped checkpoint-4: model.safetensors has {len(weights) // 2:,} bytes" in printed
    assert "going on after step 2" in printed


def test_resuming_without_a_checkpoint_starts_afresh_and_says_so(go, capsys):
    assert go(resume_from_checkpoint=True).steps == 6
    assert "training starts afresh" in capsys.readouterr().out


def test_a_finished_run_started_again_trains_no_further_step(go, tmp_path):
    first = go(save_strategy="steps", save_steps=6)
    again = go(bundle=tiny.make_bundle(seed=5), save_strategy="no", resume_from_checkpoint=True)
    assert again.steps == 6
    for name, tensor in first.bundle.module.state_dict().items():
        assert torch.equal(tensor, again.bundle.module.state_dict()[name]), name


def test_interrupt_finishes_the_step_saves_a_checkpoint_and_can_be_resumed(go, tmp_path):
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(callbacks=[Interrupt()], save_strategy="no")
    assert (tmp_path / "out/checkpoint-3/trainer_state.json").exists()
    assert go(resume_from_checkpoint=True, save_strategy="no").steps == 6


def test_bf16_on_a_cpu_is_autocast_and_leaves_nothing_wrapped_around_the_model(go):
    bundle = tiny.make_bundle()
    seen = []
    bundle.module.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    result = go(bundle=bundle, bf16=True, fused=False)  # fused, the head is no call of its own
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    result.bundle.module(input_ids=torch.tensor([[5, 6, 7]]))
    assert seen == [torch.float32]
    assert {p.dtype for p in result.bundle.module.parameters()} == {torch.float32}


def test_a_run_that_fails_leaves_nothing_in_the_forward_of_a_model_in_memory(go):
    from transformers import TrainerCallback

    class Fails(TrainerCallback):
        def on_step_end(self, *_, **__):
            assert "forward" in vars(bundle.module)
            raise RuntimeError("no more")

    bundle = tiny.make_bundle()
    with pytest.raises(RuntimeError, match="no more"):
        go(bundle=bundle, callbacks=[Fails()])
    assert "forward" not in vars(bundle.module)


def test_do_train_false_evaluates_and_changes_nothing(go, samples, tmp_path):
    bundle = tiny.make_bundle()
    before = {name: tensor.clone() for name, tensor in bundle.module.state_dict().items()}
    result = go(bundle=bundle, do_train=False, eval_dataset=samples)
    assert result.steps == 0
    assert set(result.metrics) >= {"eval_loss"}
    assert all(torch.equal(before[name], tensor) for name, tensor in bundle.module.state_dict().items())
    assert not (tmp_path / "out/model.safetensors").exists()


def test_early_stopping_ends_the_run_when_evaluations_stop_improving(go, samples):
    result = go(
        options=TrainingOptions(early_stopping_steps=2),
        eval_dataset=samples,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=50,
        learning_rate=0.5,
    )
    assert result.steps < 50


def test_effective_tokens_per_second_count_no_padding(go, samples):
    result = go(options=TrainingOptions(include_effective_tokens_per_second=True), max_steps=4)
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    metrics = result.metrics
    assert metrics["effective_tokens_per_sec"] * metrics["train_runtime"] == pytest.approx(tokens)


def test_without_shuffling_samples_come_in_the_order_of_the_data(make_request, make_trainer):
    seen = []

    def collator(batch):
        seen.extend(sample["origin"]["row"] for sample in batch)
        return pad(batch)

    request = make_request(options=TrainingOptions(disable_shuffling=True), max_steps=2, save_strategy="no")
    make_trainer(request, data_collator=collator).train()
    assert seen == list(range(16))


def test_screen_before_step_1_says_what_is_trained_how_and_where(go, capsys, tmp_path):
    go(gradient_accumulation_steps=2)
    printed = capsys.readouterr().out
    screen = printed.split("\n\n")[0].splitlines()
    assert len(screen) <= 12
    for text in (
        "tiny-llama",
        "chatml",
        "16 samples",
        "4 x 2 accumulated x 1 device = 8",
        str(tmp_path / "out"),
    ):
        assert any(text in line for line in screen), text
    assert "step 1/6" in printed


def test_adapter_runs_save_the_adapter_alone_and_ask_nobody_about_the_base_model(go, tmp_path, recwarn):
    from peft import LoraConfig, get_peft_model

    bundle = tiny.make_bundle()
    peft = get_peft_model(bundle.module, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert not go(bundle=bundle.replace(module=peft), save_strategy="steps", save_steps=3).steps < 6
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"adapter_model.safetensors", "adapter_config.json", "generation_config.json"}
    assert "model.safetensors" not in files
    assert not [w for w in recwarn if "Could not find a config file" in str(w.message)]


@pytest.mark.parametrize("rank", [4, None])
def test_a_checkpoint_of_another_adapter_is_an_error_that_says_what_to_do(go, rank):
    from peft import LoraConfig, get_peft_model

    def bundle(rank):
        plain = tiny.make_bundle()
        config = LoraConfig(r=rank or 8, target_modules=["q_proj"])
        return plain.replace(module=get_peft_model(plain.module, config)) if rank else plain

    go(bundle=bundle(8), max_steps=2, save_strategy="steps", save_steps=2)
    with pytest.raises(CheckpointError, match="does not fit this run") as caught:
        go(bundle=bundle(rank), save_strategy="no", resume_from_checkpoint=True)
    assert "`finetuning_type`" in caught.value.hint


def test_a_run_whose_only_batch_is_dropped_is_an_error(go):
    with pytest.raises(TkError, match="drops all 16 samples: a batch has 32"):
        go(per_device_train_batch_size=32, dataloader_drop_last=True)

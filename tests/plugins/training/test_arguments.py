"""Training arguments: conflicts are found before data is prepared, devices are chosen sanely."""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec

import pytest

from tkernel_plugins.stages.sft import Options
from tkernel_plugins.training.arguments import PRODUCTS, build_arguments, has_accelerator
from tkernel_plugins.training.checkpoints import find_resume
from tkernel_plugins.training.errors import CheckpointError, TrainingArgumentsError
from tkernel_plugins.training.options import TrainingOptions

needs_no_gpu = pytest.mark.skipif(has_accelerator(), reason="this machine has an accelerator")


@needs_no_gpu
@pytest.mark.parametrize(
    "written", [{}, {"use_cpu": False}, {"bf16": True}, {"bf16": True, "use_cpu": False}]
)
def test_without_a_gpu_the_cpu_is_used_whatever_was_written(make_request, written):
    arguments = build_arguments(make_request(**written))
    assert arguments.use_cpu
    assert arguments.device.type == "cpu"
    assert arguments.bf16 is written.get("bf16", False)


@needs_no_gpu
def test_fp16_without_a_gpu_is_an_error_that_says_what_to_write_instead(make_request):
    with pytest.raises(TrainingArgumentsError, match=r"`fp16: true` needs a GPU(.|\n)*`bf16: true`"):
        build_arguments(make_request(fp16=True))


def test_all_conflicts_are_reported_at_once(make_request):
    request = make_request(
        options=TrainingOptions(disable_shuffling=True, early_stopping_steps=3),
        fp16=True,
        bf16=True,
        train_sampling_strategy="group_by_length",
    )
    with pytest.raises(TrainingArgumentsError) as caught:
        build_arguments(request)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"fp16", "disable_shuffling", "early_stopping_steps"}


def test_training_without_data_is_an_error(make_request):
    request = dataclasses.replace(make_request(), train=[])
    with pytest.raises(TrainingArgumentsError, match="nothing to train on"):
        build_arguments(request)
    assert not build_arguments(dataclasses.replace(make_request(do_train=False), train=[])).do_train


def test_the_metric_must_be_named_where_several_evaluations_could_be_meant(make_request):
    options = Options(eval_on_each_dataset=True, early_stopping_steps=2)
    request = make_request(held_out=[{}], eval_strategy="steps", options=options)
    with pytest.raises(TrainingArgumentsError, match="`eval_held_out_loss`"):
        build_arguments(request)


@pytest.mark.parametrize("asked", [{"eval_strategy": "steps"}, {"do_eval": True}])
def test_evaluation_with_nothing_to_evaluate_on_is_an_error(make_request, asked):
    with pytest.raises(TrainingArgumentsError, match="nothing to evaluate on"):
        build_arguments(make_request(**asked))


def test_held_out_data_is_evaluated_without_being_asked_for(make_request):
    assert build_arguments(make_request(held_out=[{}])).do_eval


def test_conflicts_that_transformers_finds_are_reported_as_ours(make_request):
    request = make_request(held_out=[{}], load_best_model_at_end=True, save_steps=7)
    with pytest.raises(TrainingArgumentsError, match="save and eval strategy to match"):
        build_arguments(request)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission_is_an_error(make_request, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrainingArgumentsError, match="no permission"):
        build_arguments(make_request(output_dir=tmp_path / "a/b"))


def test_an_output_folder_below_a_file_is_an_error(make_request, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingArgumentsError, match="a file is in the way"):
        build_arguments(make_request(output_dir=tmp_path / "file/out"))


def test_nothing_is_reported_to_anybody_and_lines_come_every_ten_steps_unless_asked(make_request):
    arguments = build_arguments(make_request())
    assert (arguments.report_to, arguments.logging_steps) == ([], 10)
    assert build_arguments(make_request(logging_steps=3)).logging_steps == 3


def test_trackers_that_are_misspelt_or_not_installed_are_named_with_what_helps(make_request):
    with pytest.raises(TrainingArgumentsError) as caught:
        build_arguments(make_request(report_to="tensorbord, neptune"))
    assert [(problem.message, problem.hint) for problem in caught.value.problems] == [
        ("`report_to: tensorbord` is no tracker", "Did you mean 'tensorboard'?"),
        ("`report_to: neptune` needs neptune, which is not installed", "Run: pip install neptune"),
    ]


@pytest.mark.skipif(bool(find_spec("wandb")), reason="wandb is installed")
def test_a_tracker_with_an_extra_names_the_extra(make_request):
    with pytest.raises(TrainingArgumentsError, match=r"pip install 'tkernel\[wandb\]'"):
        build_arguments(make_request(report_to=["wandb"]))


@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_is_understood_under_its_old_name(make_request):
    arguments = build_arguments(make_request(gradient_checkpointing=True))
    # The newer name first: looking at the older one would warn.
    assert getattr(arguments, "activation_checkpointing", None) or arguments.gradient_checkpointing


def test_a_path_that_is_no_checkpoint_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(CheckpointError, match="the folder does not exist"):
        find_resume(str(tmp_path / "checkpoint-9"), tmp_path)
    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is missing"):
        find_resume(str(tmp_path / "checkpoint-9"), tmp_path)


@pytest.mark.parametrize("wanted", [None, False, "false", ""])
def test_not_resuming_needs_no_checkpoint(wanted, tmp_path):
    assert find_resume(wanted, tmp_path).path is None


def test_deepspeed_that_is_not_installed_is_a_problem_before_data_is_prepared(make_request):
    with pytest.raises(TrainingArgumentsError, match=r"`deepspeed` is not installed"):
        build_arguments(make_request(deepspeed="zero.json"))


def test_no_step_at_all_is_not_asked_of_a_trainer_that_takes_at_least_one(make_request):
    with pytest.raises(TrainingArgumentsError, match="`max_steps: 0` takes no step"):
        build_arguments(make_request(max_steps=0))


@pytest.mark.parametrize(("own", "expected"), [(None, PRODUCTS), ("7", "7")])
def test_few_products_stay_compiled_on_a_cpu_unless_the_user_bounds_them(
    make_request, monkeypatch, own, expected
):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", own or "")
    if own is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    build_arguments(make_request(use_cpu=True))
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == expected


def test_processes_look_for_unused_parameters_only_where_a_step_may_leave_some_out(make_request):
    from peft import LoraConfig, get_peft_model

    request = make_request()
    whole = build_arguments(request)
    adapted = get_peft_model(request.bundle.module, LoraConfig(target_modules=["q_proj"]))
    request = dataclasses.replace(request, bundle=request.bundle.replace(module=adapted))
    assert whole.ddp_find_unused_parameters is None  # transformers decides
    assert build_arguments(request).ddp_find_unused_parameters is False
    asked = dataclasses.replace(request, arguments={**request.arguments, "ddp_find_unused_parameters": True})
    assert build_arguments(asked).ddp_find_unused_parameters is True

"""A training run from a ready trainer to the files in `output_dir`; every stage ends with it."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tkernel.errors import TkError
from tkernel.types.requests import StageRequest
from tkernel.types.stage import StageResult
from tkernel_plugins.garbage import not_searched_again
from tkernel_plugins.training.card import write_card
from tkernel_plugins.training.checkpoint_writing import abandoned, clean_up, not_saved, write_model
from tkernel_plugins.training.checkpoints import Resume
from tkernel_plugins.training.curve import plot_losses
from tkernel_plugins.training.interrupt import Interrupt, Stopped, leave
from tkernel_plugins.training.log import TrainerLog
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.position import EndlessSamples, read_position, save_report
from tkernel_plugins.training.prediction import predict
from tkernel_plugins.training.progress import ProgressBar, progress_callback
from tkernel_plugins.training.quiet import quiet
from tkernel_plugins.training.room import require_room
from tkernel_plugins.training.saving import save_generation_config
from tkernel_plugins.training.stage_trainer import StageTrainer
from tkernel_plugins.training.summary import Summary, template_notes
from tkernel_plugins.training.sums import read_sums

Metrics = dict[str, float]
STATE = "trainer_state.json"


def run(
    trainer: StageTrainer, request: StageRequest, *, resume: Resume, data: Sequence[str] = ()
) -> StageResult:
    """Train, evaluate, save.

    Args:
        trainer: with its datasets; callbacks of the `callbacks` slot are added here.
        request: the stage's request.
        resume: the checkpoint to go on from.
        data: lines for the screen before step 1 about what preparation did.

    Raises:
        KeyboardInterrupt, SystemExit(143): after Ctrl-C or SIGTERM, when the step was finished and a checkpoint
            was saved.
        NonFiniteLoss: see `StageTrainer`.
        CheckpointNotSaved: the disk is full, or the folder cannot be written any more.
        TkError: not one whole batch, where others are dropped.
    """
    output_dir = Path(trainer.args.output_dir)
    options = request.options if isinstance(request.options, TrainingOptions) else TrainingOptions()
    finished = trainer.args.do_train and _is_finished(trainer, resume)
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    progress = progress_callback(trainer.args, trainer.meter)
    trainer.interrupt = interrupt = Interrupt()
    for callback in (
        _Metering(trainer, resume),
        Summary(request, data, [*resume.notes, *template_notes(request)]),
        progress,
        TrainerLog(output_dir),
        interrupt,
        *([EarlyStoppingCallback(options.early_stopping_steps)] if options.early_stopping_steps else []),
        *request.slots.take("callbacks", []),
        _WhatIsDue(trainer),
    ):
        trainer.add_callback(callback)

    metrics: Metrics = {}
    try:
        with quiet(), writing(output_dir):
            if finished and resume.path is not None:
                metrics |= _load_finished(trainer, resume.path)
            elif trainer.args.do_train:
                metrics |= _train(trainer, interrupt, resume, options)
            if trainer.args.do_train:
                trainer.require_finite()
                write_model(trainer, output_dir)
                trainer.save_metrics("train", metrics)
                if trainer.is_world_process_zero():
                    save_generation_config(trainer.model, request.renderer, output_dir)
            if trainer.eval_dataset is not None and trainer.args.do_eval:
                evaluated = _evaluate(trainer)
                trainer.save_metrics("eval", evaluated)
                metrics |= evaluated
            if trainer.args.do_predict and getattr(request.options, "predict_with_generate", False):
                predicted = _predict(trainer, request)
                trainer.save_metrics("predict", predicted)
                metrics |= predicted
            trainer.save_state()
            if isinstance(trainer.train_dataset, EndlessSamples) and trainer.is_world_process_zero():
                save_report(trainer.position, output_dir)
    except BaseException:
        trainer.trained_module()  # whoever holds the model gets it back as it was
        raise
    finally:
        if isinstance(progress, ProgressBar):
            progress.stop()
    module = trainer.trained_module()
    if trainer.is_world_process_zero():
        curves = plot_losses(trainer.state.log_history, output_dir) if options.plot_loss else []
        if trainer.args.do_train:
            write_card(request, trainer.args, metrics, output_dir)
        _say(metrics, curves)
    return StageResult(request.bundle.replace(module=module), output_dir, trainer.state.global_step, metrics)


class _Metering(TrainerCallback):
    """Lets the trainer count a step before anybody reports it, and go on counting where it was."""

    def __init__(self, trainer: StageTrainer, resume: Resume) -> None:
        self.trainer, self.resume = trainer, resume

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.resume.path is None:
            return
        self.trainer.go_on(self.resume.path)
        # transformers would go on with the intervals of the checkpoint, whatever is asked for now.
        state.compute_steps(args, state.max_steps)
        stored = state.stateful_callbacks.get("EarlyStoppingCallback")
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and isinstance(stored, Mapping):
                patience = stored["attributes"]["early_stopping_patience_counter"]
                callback.early_stopping_patience_counter = patience

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.in_epoch = not isinstance(self.trainer.train_dataset, EndlessSamples)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.finish_step()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.in_epoch = False


class _WhatIsDue(TrainerCallback):
    """Evaluates before the first step where the evaluation after the last one was stopped."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.evaluate_what_is_due()


def _train(trainer: StageTrainer, interrupt: Interrupt, resume: Resume, options: TrainingOptions) -> Metrics:
    """Train and give the metrics."""
    is_stream = isinstance(trainer.train_dataset, EndlessSamples)
    if is_stream and resume.path is not None:
        trainer.position = trainer.train_dataset.start = read_position(resume.path)
    batch = trainer.args.train_batch_size * trainer.args.world_size
    if trainer.args.dataloader_drop_last and not is_stream and len(trainer.train_dataset) < batch:
        raise TkError(
            f"`dataloader_drop_last: true` drops all {len(trainer.train_dataset)} samples: a batch has {batch}",
            hint="Leave it out, or lower `per_device_train_batch_size`.",
        )
    output_dir = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        clean_up(output_dir)
        trainer.abandoned = abandoned(output_dir, resume.step)
    require_room(trainer.model, trainer.args, planned_steps(trainer))
    try:
        with interrupt.listening(), not_searched_again():
            output = trainer.train(resume_from_checkpoint=str(resume.path) if resume.path else None)
    except Stopped as stopped:
        print(
            f"stopped after step {stopped.step} of {trainer.state.max_steps}; the checkpoint is in "
            f"{output_dir}/checkpoint-{stopped.step}\n"
            "  go on with `resume_from_checkpoint=true`",
            flush=True,
        )
        leave(interrupt.asked)
    metrics: Metrics = dict(output.metrics)
    if options.include_effective_tokens_per_second:
        metrics["effective_tokens_per_sec"] = trainer.meter.tokens / metrics["train_runtime"]
    return metrics


def planned_steps(trainer: StageTrainer) -> int:
    """Optimizer steps of the whole run, by transformers' rule."""
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    per_batch = args.train_batch_size * args.world_size
    samples = trainer.epoch_size()
    batches = samples // per_batch if args.dataloader_drop_last else math.ceil(samples / per_batch)
    per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * per_epoch)


def _is_finished(trainer: StageTrainer, resume: Resume) -> bool:
    """Whether the checkpoint is of the last step, or of the one after which training was stopped early."""
    if resume.path is None:
        return False
    planned = planned_steps(trainer)
    state = TrainerState.load_from_json(str(resume.path / STATE))
    control = state.stateful_callbacks.get("TrainerControl", {})
    stopped = bool(control.get("args", {}).get("should_training_stop"))
    due = read_sums(resume.path, trainer.args.process_index).evaluation_due
    return resume.step >= planned or (stopped and state.max_steps == planned and not due)


def _load_finished(trainer: StageTrainer, path: Path) -> Metrics:
    """Take the weights of a run that did all its steps, and whose result was not saved."""
    trainer.state = TrainerState.load_from_json(str(path / STATE))
    best = trainer.state.best_model_checkpoint
    chosen = path.with_name(Path(best).name) if trainer.args.load_best_model_at_end and best else path
    trainer._load_from_checkpoint(str(chosen))
    trainer.go_on(path)
    print(f"{path} has done all {trainer.state.global_step} steps; nothing is left to train", flush=True)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TrainerLog):
            callback.keep(trainer.state)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics: Metrics = {"train_loss": sum(losses) / max(len(losses), 1)}
    trainer.log(metrics | {"total_flos": trainer.state.total_flos})  # what the end of training logs
    return metrics | {"train_loss": trainer.state.log_history[-1]["train_loss"]}


@contextmanager
def writing(output_dir: Path) -> Iterator[None]:
    """Around what writes into `output_dir`: an error of the disk says from where to go on."""
    try:
        yield
    except OSError as error:
        full_or_closed = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
        if error.errno not in full_or_closed:
            raise
        raise not_saved(Path(str(error.filename or output_dir)), error) from error


def _evaluate(trainer: StageTrainer) -> Metrics:
    """The metrics of the last step: those just logged if they are of these weights, else new ones."""
    last = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    is_current = bool(last) and last[-1]["step"] == trainer.state.global_step and trainer.args.do_train
    if is_current and not isinstance(trainer.eval_dataset, dict) and not trainer.args.load_best_model_at_end:
        return {name: value for name, value in last[-1].items() if name != "step"}
    return dict(trainer.evaluate())


def _predict(trainer: StageTrainer, request: StageRequest) -> Metrics:
    wanted = request.arguments.get("resume_from_checkpoint", request.settings.get("resume_from_checkpoint"))
    return predict(
        request,
        request.bundle.replace(module=trainer.trained_module()),
        output_dir=Path(trainer.args.output_dir),
        batch_size=trainer.args.per_device_eval_batch_size,
        steps=trainer.state.global_step,
        go_on=bool(wanted),
    )


def _say(metrics: Metrics, curves: Sequence[Path]) -> None:
    told = ("_loss", "_accuracy", "_bleu-4", "_rouge-1", "_rouge-2", "_rouge-l")
    losses = [f"{n} {v:.4f}" for n, v in metrics.items() if n.endswith(told)]
    if losses:
        print("  ".join(losses), flush=True)
    for curve in curves:
        print(f"loss curve in {curve}", flush=True)

"""A training run from a ready trainer to the files in `output_dir`; every stage ends with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from tkernel_plugins.training.card import write_card
from tkernel_plugins.training.checkpoints import Resume
from tkernel_plugins.training.curve import plot_losses
from tkernel_plugins.training.interrupt import StopOnInterrupt
from tkernel_plugins.training.log import TrainerLog
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.position import EndlessSamples, read_position, save_report
from tkernel_plugins.training.progress import ProgressBar, progress_callback
from tkernel_plugins.training.quiet import quiet
from tkernel_plugins.training.saving import save_generation_config
from tkernel_plugins.training.stage_trainer import StageTrainer
from tkernel_plugins.training.summary import Summary, template_notes

Metrics = dict[str, float]


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
        KeyboardInterrupt: after Ctrl-C, when the step was finished and a checkpoint was saved.
        NonFiniteLoss: see `StageTrainer`.
        TkError: not one whole batch, where others are dropped.
    """
    output_dir = Path(trainer.args.output_dir)
    options = request.options if isinstance(request.options, TrainingOptions) else TrainingOptions()
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    progress = progress_callback(trainer.args, trainer.meter)
    interrupt = StopOnInterrupt()
    for callback in (
        _Metering(trainer),
        Summary(request, data, [*resume.notes, *template_notes(request)]),
        progress,
        TrainerLog(output_dir),
        interrupt,
        *([EarlyStoppingCallback(options.early_stopping_steps)] if options.early_stopping_steps else []),
        *request.slots.take("callbacks", []),
    ):
        trainer.add_callback(callback)

    metrics: Metrics = {}
    try:
        with quiet():
            if trainer.args.do_train:
                metrics |= _train(trainer, interrupt, resume, options)
                trainer.save_model(str(output_dir))
                trainer.save_metrics("train", metrics)
                if trainer.is_world_process_zero():
                    save_generation_config(trainer.model, request.renderer, output_dir)
            if trainer.eval_dataset is not None:
                evaluated = _evaluate(trainer)
                trainer.save_metrics("eval", evaluated)
                metrics |= evaluated
            trainer.save_state()
            if isinstance(trainer.train_dataset, EndlessSamples) and trainer.is_world_process_zero():
                save_report(trainer.position, output_dir)
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
    """Lets the trainer count a step before anybody reports it."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.finish_step()


def _train(
    trainer: StageTrainer, interrupt: StopOnInterrupt, resume: Resume, options: TrainingOptions
) -> Metrics:
    """Train and give the metrics; a run that was finished already is loaded and not trained further."""
    if resume.path is not None and resume.step >= planned_steps(trainer):
        return _load_finished(trainer, resume.path)
    is_stream = isinstance(trainer.train_dataset, EndlessSamples)
    if is_stream and resume.path is not None:
        trainer.position = trainer.train_dataset.start = read_position(resume.path)
    batch = trainer.args.train_batch_size * trainer.args.world_size
    if trainer.args.dataloader_drop_last and not is_stream and len(trainer.train_dataset) < batch:
        raise TkError(
            f"`dataloader_drop_last: true` drops all {len(trainer.train_dataset)} samples: a batch has {batch}",
            hint="Leave it out, or lower `per_device_train_batch_size`.",
        )
    with interrupt.listening():
        output = trainer.train(resume_from_checkpoint=str(resume.path) if resume.path else None)
    if interrupt.stopped_at is not None and interrupt.stopped_at < trainer.state.max_steps:
        print(
            f"stopped after step {interrupt.stopped_at} of {trainer.state.max_steps}; the checkpoint is in "
            f"{trainer.args.output_dir}/checkpoint-{interrupt.stopped_at}\n"
            "  go on with `resume_from_checkpoint=true`",
            flush=True,
        )
        raise KeyboardInterrupt
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
    samples = len(trainer.train_dataset)
    batches = samples // per_batch if args.dataloader_drop_last else math.ceil(samples / per_batch)
    per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * per_epoch)


def _load_finished(trainer: StageTrainer, path: Path) -> Metrics:
    trainer._load_from_checkpoint(str(path))
    trainer.state = TrainerState.load_from_json(str(path / "trainer_state.json"))
    print(f"{path} has done all {trainer.state.global_step} steps; nothing is left to train", flush=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"train_loss": sum(losses) / len(losses)} if losses else {}


def _evaluate(trainer: StageTrainer) -> Metrics:
    """The metrics of the last step: those just logged if they are of these weights, else new ones."""
    last = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    is_current = bool(last) and last[-1]["step"] == trainer.state.global_step and trainer.args.do_train
    if is_current and not isinstance(trainer.eval_dataset, dict) and not trainer.args.load_best_model_at_end:
        return {name: value for name, value in last[-1].items() if name != "step"}
    return dict(trainer.evaluate())


def _say(metrics: Metrics, curves: Sequence[Path]) -> None:
    losses = [f"{n} {v:.4f}" for n, v in metrics.items() if n.endswith(("_loss", "_accuracy"))]
    if losses:
        print("  ".join(losses), flush=True)
    for curve in curves:
        print(f"loss curve in {curve}", flush=True)

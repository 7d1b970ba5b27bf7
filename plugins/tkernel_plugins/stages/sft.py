"""Stage `sft`: supervised fine-tuning on conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.training.fused.options import FusedOptions
from tkernel_plugins.training.objective import ObjectiveOptions
from tkernel_plugins.training.options import PredictOptions, TrainingOptions


@dataclass(frozen=True)
class Options(PrepareOptions, TrainingOptions, PredictOptions, ObjectiveOptions, FusedOptions):
    """Options of `stage: sft`."""


class SupervisedFineTuning:
    """Next-token prediction on the replies, with `transformers.Trainer` in its own random order."""

    name = "sft"
    Options = Options
    rows = "supervised"
    training_arguments = "transformers.training_args:TrainingArguments"
    contract: ClassVar[Mapping[str, Any]] = {"log_file": "trainer_log.jsonl"}

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Training arguments that contradict each other, the data or this machine."""
        from tkernel_plugins.training.checks import check_metric, check_training
        from tkernel_plugins.training.objective import check_objective

        yield from check_training(request)
        yield from check_metric(request, "accuracy", "perplexity")
        yield from check_objective(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Check the arguments, prepare the data, train, evaluate, save."""
        from tkernel_plugins.data.prepare import prepare
        from tkernel_plugins.training.anchor import anchor_of
        from tkernel_plugins.training.arguments import build_arguments, resume_of
        from tkernel_plugins.training.joining import collator_for
        from tkernel_plugins.training.memory import Held, settle_checkpointing
        from tkernel_plugins.training.objective import objective_of
        from tkernel_plugins.training.optimisation import optimizer_of
        from tkernel_plugins.training.saving import padding_id, processing_class
        from tkernel_plugins.training.session import run
        from tkernel_plugins.training.trainer import SupervisedTrainer

        arguments, options = build_arguments(request), request.options
        resume = resume_of(request)
        objective = objective_of(options, arguments.label_smoothing_factor)
        collator = collator_for(request, self.rows, padding_id(request.bundle.tokenizer))
        prepared = prepare(request)
        trainer = SupervisedTrainer(
            request.bundle.module,
            arguments,
            loss=request.slots.take("loss"),
            optimizer=optimizer_of(request),
            accuracy=options.compute_accuracy,
            objective=objective,
            anchor=anchor_of(request) if objective.is_anchored else None,
            fused=options.fused,
            longest=options.cutoff_len,
            train_dataset=prepared.train,
            eval_dataset=prepared.eval,
            data_collator=collator,
            processing_class=processing_class(request.bundle, request.renderer),
        )
        memory = settle_checkpointing(trainer, request, Held.of_text(trainer))
        return run(trainer, request, resume=resume, data=[*prepared.report.lines(), *memory])


STAGE = SupervisedFineTuning()

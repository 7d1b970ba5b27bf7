"""Stage `kto`: learning from replies of which each was liked or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.options import UnpackedOptions
from tkernel_plugins.training.options import TrainingOptions
from tkernel_plugins.training.preference_options import FeedbackOptions


@dataclass(frozen=True)
class Options(UnpackedOptions, TrainingOptions, FeedbackOptions):
    """Options of `stage: kto`."""


class FeedbackOptimisation:
    """KTO on feedback rows; the reference is frozen, and asked once about each completion."""

    name = "kto"
    Options = Options
    rows = "feedback"
    models: ClassVar[dict[str, str]] = {"reference": "ref_model"}
    training_arguments = "transformers.training_args:TrainingArguments"
    contract: ClassVar[Mapping[str, Any]] = {"log_file": "trainer_log.jsonl"}

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Options of the reference that do not go together, besides what every stage checks."""
        from tkernel_plugins.training.checks import check_metric, check_training
        from tkernel_plugins.training.preference_checks import OF_SIDES, check_reference

        yield from check_training(request)
        yield from check_metric(request, *OF_SIDES, "kl")
        yield from check_reference(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Check the arguments, prepare the data, find the reference, train, evaluate, save."""
        from tkernel_plugins.data.collator_pairs import FeedbackCollator
        from tkernel_plugins.data.prepare import prepare
        from tkernel_plugins.training.arguments import build_arguments, resume_of
        from tkernel_plugins.training.feedback_trainer import FeedbackTrainer
        from tkernel_plugins.training.memory import Held, settle_checkpointing
        from tkernel_plugins.training.optimisation import optimizer_of
        from tkernel_plugins.training.part_collator import FEEDBACK, PartCollator
        from tkernel_plugins.training.saving import padding_id, processing_class
        from tkernel_plugins.training.session import run

        options = request.options
        arguments = build_arguments(request)
        resume = resume_of(request)
        padding = padding_id(request.bundle.tokenizer)
        learned = not options.ignore_pad_token_for_loss
        prepared = prepare(request, self.rows)
        trainer = FeedbackTrainer(
            request.bundle.module,
            arguments,
            options=options,
            collator=PartCollator(
                FeedbackCollator(padding, media=request.media, learn_padding=learned),
                FEEDBACK,
                padding,
                apart=True,
            ),
            tokenizer=request.bundle.tokenizer,
            longest=options.cutoff_len,
            optimizer=optimizer_of(request),
            train_dataset=prepared.train,
            eval_dataset=prepared.eval,
            processing_class=processing_class(request.bundle, request.renderer),
        )
        lines = trainer.use_reference(request)
        # No gradient flows through the completions of other prompts.
        held = Held.of_batch(arguments, options.cutoff_len, logits=int(trainer.scorer.split is None))
        lines += settle_checkpointing(trainer, request, held)
        return run(trainer, request, resume=resume, data=[*prepared.report.lines(), *lines])


STAGE = FeedbackOptimisation()

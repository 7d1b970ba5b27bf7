"""Stage `dpo`: learning from pairs of a better and a worse reply."""

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
from tkernel_plugins.training.preference_options import REFERENCE_FREE, PreferenceOptions


@dataclass(frozen=True)
class Options(UnpackedOptions, TrainingOptions, PreferenceOptions):
    """Options of `stage: dpo`."""


class PreferenceOptimisation:
    """DPO and its relatives on preference rows; the reference is frozen, and asked once about each pair."""

    name = "dpo"
    Options = Options
    rows = "preference"
    models: ClassVar[dict[str, str]] = {"reference": "ref_model"}
    training_arguments = "transformers.training_args:TrainingArguments"
    contract: ClassVar[Mapping[str, Any]] = {"log_file": "trainer_log.jsonl"}

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Losses and options that do not go together, besides what every stage checks."""
        from tkernel_plugins.training.checks import check_metric, check_training
        from tkernel_plugins.training.preference_checks import OF_SIDES, check_preference

        yield from check_training(request)
        yield from check_metric(request, *OF_SIDES, "rewards/accuracies", "sft_loss", "odds_ratio_loss")
        yield from check_preference(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Check the arguments, prepare the data, find the reference, train, evaluate, save."""
        from tkernel_plugins.data.collator_pairs import PreferenceCollator
        from tkernel_plugins.data.prepare import prepare
        from tkernel_plugins.training.arguments import build_arguments, resume_of
        from tkernel_plugins.training.memory import Held, settle_checkpointing
        from tkernel_plugins.training.optimisation import optimizer_of
        from tkernel_plugins.training.part_collator import PAIR, PartCollator
        from tkernel_plugins.training.preference_trainer import PreferenceTrainer
        from tkernel_plugins.training.saving import padding_id, processing_class
        from tkernel_plugins.training.session import run

        options = request.options
        arguments = build_arguments(request)
        resume = resume_of(request)
        padding = padding_id(request.bundle.tokenizer)
        learned = not options.ignore_pad_token_for_loss
        prepared = prepare(request, self.rows)
        trainer = PreferenceTrainer(
            request.bundle.module,
            arguments,
            options=options,
            collator=PartCollator(
                PreferenceCollator(padding, media=request.media, learn_padding=learned), PAIR, padding
            ),
            tokenizer=request.bundle.tokenizer,
            longest=options.cutoff_len,
            optimizer=optimizer_of(request),
            train_dataset=prepared.train,
            eval_dataset=prepared.eval,
            processing_class=processing_class(request.bundle, request.renderer),
        )
        lines = [] if options.pref_loss in REFERENCE_FREE else trainer.use_reference(request)
        logits = int(trainer.scorer.split is None)
        held = Held.of_batch(arguments, options.cutoff_len, sequences=2, logits=logits)
        lines += settle_checkpointing(trainer, request, held)
        return run(trainer, request, resume=resume, data=[*prepared.report.lines(), *lines])


STAGE = PreferenceOptimisation()

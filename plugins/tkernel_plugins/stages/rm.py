"""Stage `rm`: a reward model, which scores replies."""

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
from tkernel_plugins.training.reward_options import RewardOptions


@dataclass(frozen=True)
class Options(UnpackedOptions, TrainingOptions, RewardOptions):
    """Options of `stage: rm`."""


class RewardModelling:
    """A head on the language model learns from preference rows to score the better reply higher."""

    name = "rm"
    Options = Options
    rows = "preference"
    produces = "reward"
    training_arguments = "transformers.training_args:TrainingArguments"
    contract: ClassVar[Mapping[str, Any]] = {
        "suite": "tkernel_plugins.training.contracts.rewards:RewardContract",
        "log_file": "trainer_log.jsonl",
    }

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """Predictions without data, besides what every stage checks."""
        from tkernel_plugins.training.checks import check_metric, check_training

        yield from check_training(request)
        yield from check_metric(request, "accuracy", "rewards/chosen", "rewards/rejected", "rewards/margins")
        has_data = request.eval or getattr(request.options, "val_size", 0)
        if request.arguments.get("do_predict") and not has_data:
            hint = "Add `eval_dataset: NAME` or `val_size`."
            yield Problem("`do_predict: true` has no data to score", key="do_predict", hint=hint)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Check the arguments, attach the head, prepare the data, train, evaluate, save, predict."""
        from tkernel_plugins.data.collator_pairs import PreferenceCollator
        from tkernel_plugins.data.prepare import prepare
        from tkernel_plugins.training.arguments import build_arguments, resume_of
        from tkernel_plugins.training.memory import Held, settle_checkpointing
        from tkernel_plugins.training.optimisation import optimizer_of
        from tkernel_plugins.training.part_collator import PAIR, PartCollator
        from tkernel_plugins.training.reward_start import give_head, use_padding
        from tkernel_plugins.training.reward_trainer import RewardTrainer
        from tkernel_plugins.training.saving import padding_id, processing_class
        from tkernel_plugins.training.session import run

        options = request.options
        arguments = build_arguments(request)
        resume = resume_of(request)
        processing = processing_class(request.bundle, request.renderer)
        padding = padding_id(request.bundle.tokenizer)
        if options.reward_head == "classification":
            padding = use_padding(processing, request.renderer)
        words = give_head(request, padding)
        prepared = prepare(request, self.rows)
        trainer = RewardTrainer(
            request.bundle.module,
            arguments,
            options=options,
            collator=PartCollator(PreferenceCollator(padding, media=request.media), PAIR, padding),
            tokenizer=request.bundle.tokenizer,
            longest=options.cutoff_len,
            optimizer=optimizer_of(request),
            train_dataset=prepared.train,
            eval_dataset=prepared.eval,
            processing_class=processing,
        )
        held = Held.of_batch(arguments, options.cutoff_len, sequences=2)
        lines = [words, *settle_checkpointing(trainer, request, held)]
        result = run(trainer, request, resume=resume, data=[*prepared.report.lines(), *lines])
        if arguments.do_predict:
            print(f"scores in {trainer.write_predictions(result.output_dir)}", flush=True)
        return result


STAGE = RewardModelling()

"""Stage `distill`: learning the distributions of a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from tkernel import StageResult, hookimpl
from tkernel.errors import Problem, TkError
from tkernel.types.check import CheckRequest
from tkernel.types.engine import Sampling
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.training.options import TrainingOptions


@dataclass(frozen=True)
class Options(PrepareOptions, TrainingOptions, Sampling):
    """Options of `stage: distill`; `beta` and `temperature` as in TRL's `DistillationConfig`."""

    teacher_model: str | None = None
    """The teacher: a folder or hub name, with the tokenizer of the trained model."""
    teacher_model_adapters: tuple[str, ...] = ()
    """Adapters of the teacher."""
    beta: float = field(default=1.0, metadata={"ge": 0, "le": 1})
    """0: KL(teacher || student), which covers all that the teacher says; 1: KL(student || teacher), which seeks
    what it says most; between them the generalised Jensen-Shannon divergence."""
    temperature: float = field(default=1.0, metadata={"ge": 0})
    """Divides the logits of both."""
    ce_weight: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    """Share of the cross entropy on the data's own replies in the loss; the divergence has the rest."""


class Distillation:
    """The trained model takes on the distribution of the teacher at every token of the replies."""

    name = "distill"
    Options = Options
    rows = "supervised"
    training_arguments = "transformers.training_args:TrainingArguments"
    models: ClassVar[Mapping[str, str]] = {"teacher": "teacher_model"}
    contract: ClassVar[Mapping[str, Any]] = {
        "suite": "tkernel_plugins.training.contracts.distillation:DistillationContract",
        "log_file": "trainer_log.jsonl",
    }

    def check(self, request: CheckRequest) -> Iterable[Problem]:
        """A teacher that is missing or has another vocabulary, and what training refuses."""
        from tkernel_plugins.training.distillation_checks import check_distillation

        return check_distillation(request)

    @hookimpl
    def train_stage(self, request: StageRequest) -> StageResult:
        """Load the teacher, prepare the data, train, evaluate, save."""
        from tkernel_plugins.data.prepare import prepare
        from tkernel_plugins.training.arguments import build_arguments, resume_of
        from tkernel_plugins.training.distillation import DistillationTrainer, first_difference
        from tkernel_plugins.training.joining import collator_for
        from tkernel_plugins.training.memory import Held, settle_checkpointing
        from tkernel_plugins.training.optimisation import optimizer_of
        from tkernel_plugins.training.saving import padding_id, processing_class
        from tkernel_plugins.training.session import run

        arguments = build_arguments(request)
        resume = resume_of(request)
        padding = padding_id(request.bundle.tokenizer)
        collator = collator_for(request, self.rows, padding)
        if request.load_model is None:
            raise TkError(
                "there is nothing to load the teacher with", hint="Run the stage with `tkernel.run`."
            )
        teacher = request.load_model("teacher")
        vocabularies = (bundle.tokenizer.get_vocab() for bundle in (request.bundle, teacher))
        if difference := first_difference(*vocabularies):
            raise TkError(
                f"teacher and student have different vocabularies: {difference}",
                hint="Take a teacher of the same family: distributions over other tokens cannot be compared.",
            )
        other = collator_for(replace(request, bundle=teacher), self.rows, padding)
        if getattr(other, "separation", None) != getattr(collator, "separation", None):
            raise TkError(
                f"the teacher {teacher.facts.name} keeps the samples of one row apart in another way than the student",
                hint="Leave out `neat_packing` and `padding_free`.",
            )
        options = request.options
        prepared = prepare(request)
        trainer = DistillationTrainer(
            request.bundle.module,
            arguments,
            teacher=teacher.module,
            beta=options.beta,
            temperature=options.temperature,
            ce_weight=options.ce_weight,
            loss=request.slots.take("loss"),
            optimizer=optimizer_of(request),
            accuracy=options.compute_accuracy,
            train_dataset=prepared.train,
            eval_dataset=prepared.eval,
            data_collator=collator,
            processing_class=processing_class(request.bundle, request.renderer),
        )
        # The divergence holds as much as the student's logits and their loss.
        held = Held.of_batch(arguments, options.cutoff_len, logits=2)
        memory = settle_checkpointing(trainer, request, held)
        return run(trainer, request, resume=resume, data=[*prepared.report.lines(), *memory])


STAGE = Distillation()

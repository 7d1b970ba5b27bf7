"""From a stage's request to its trainer, for the stages that generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tkernel.errors import TkError
from tkernel.types.requests import StageRequest
from tkernel.types.stage import StageResult
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.prepare import prepare
from tkernel_plugins.training import value_head
from tkernel_plugins.training.arguments import build_arguments, resume_of
from tkernel_plugins.training.online.options import GroupOptions
from tkernel_plugins.training.online.ppo_trainer import PpoTrainer
from tkernel_plugins.training.online.reward_model import reward_model_of
from tkernel_plugins.training.online.rewards import Rewards
from tkernel_plugins.training.online.trainer import OnlineTrainer, reference_of
from tkernel_plugins.training.optimisation import optimizer_of
from tkernel_plugins.training.saving import processing_class
from tkernel_plugins.training.session import run


def run_group(make: Callable[..., OnlineTrainer], request: StageRequest) -> StageResult:
    """Train with `make`, `GrpoTrainer` or `RlooTrainer`.

    Raises:
        FunctionNotFound: a reward function cannot be imported, or is none.
        TkError: see `refuse_media`, and what `prepare` and training raise.
    """
    options: GroupOptions = request.options
    arguments = build_arguments(request)
    resume = resume_of(request)
    refuse_media(request)
    rewards = Rewards(
        options.reward_funcs, options.reward_weights, reward_model_of(request, arguments.device)
    )
    prepared = prepare(request, "prompt")
    steps = options.steps_per_generation or arguments.gradient_accumulation_steps
    trainer = make(
        arguments,
        request=request,
        rewards=rewards,
        sampling=options.sampling(),
        generations=options.num_generations,
        eval_generations=options.num_generations_eval or options.num_generations,
        steps=steps // arguments.gradient_accumulation_steps,
        iterations=options.num_iterations,
        reference=reference_of(request, arguments.device) if getattr(options, "beta", 0) else None,
        optimizer=optimizer_of(request),
        train_dataset=prepared.train,
        eval_dataset=prepared.eval,
        processing_class=processing_class(request.bundle, request.renderer),
    )
    return run(trainer, request, resume=resume, data=prepared.report.lines())


def refuse_media(request: StageRequest) -> None:
    """Raise for prompts with images, videos or audios."""
    for loaded in (*request.train, *request.eval):
        found = [name for name in MEDIA if name in (loaded.rows.column_names or ())]
        if found:
            raise TkError(
                f"dataset {loaded.entry.name!r} has {found[0]}, and this stage generates from text alone",
                hint="Take prompts without media.",
            )


def run_ppo(request: StageRequest) -> StageResult:
    """Train a policy with a value head, which is taken off it again.

    Raises:
        TkError: the reward model has no value head or another vocabulary; and what `prepare` and training raise.
    """
    options = request.options
    arguments = build_arguments(request)
    resume = resume_of(request)
    refuse_media(request)
    rewards = Rewards(model=reward_model_of(request, arguments.device))
    reference = reference_of(request, arguments.device)
    prepared = prepare(request, "prompt")
    policy = request.bundle.module
    places = [*reversed(adapters_of(request)), request.bundle.facts.location or ""]
    saved = next((Path(place) for place in places if place and value_head.has_saved(place)), None)
    if saved is not None:
        value_head.load(policy, saved)
    else:
        value_head.attach(policy, seed=request.seed)
    trainer = PpoTrainer(
        arguments,
        request=request,
        rewards=rewards,
        sampling=options,
        steps=options.ppo_buffer_size,
        iterations=options.ppo_epochs,
        reference=reference,
        optimizer=optimizer_of(request),
        train_dataset=prepared.train,
        eval_dataset=prepared.eval,
        processing_class=processing_class(request.bundle, request.renderer),
    )
    result = run(trainer, request, resume=resume, data=prepared.report.lines())
    value_head.detach(result.bundle.module)
    return result


def adapters_of(request: StageRequest) -> Sequence[str]:
    """The folders of `adapter_name_or_path`."""
    given = request.settings.get("adapter_name_or_path") or ()
    return given.split(",") if isinstance(given, str) else tuple(given)

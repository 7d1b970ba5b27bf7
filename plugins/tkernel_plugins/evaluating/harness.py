"""EleutherAI's lm-eval (https://github.com/EleutherAI/lm-evaluation-harness) on a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import MissingRequirement, TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.rendering import Renderer
from tkernel_plugins.evaluating.options import EvalOptions


def evaluate(
    bundle: ModelBundle,
    renderer: Renderer,
    tasks: Sequence[str],
    options: EvalOptions,
    *,
    chat: bool,
    seed: int,
) -> dict[str, Any]:
    """Run lm-eval's tasks; its result without the samples.

    Args:
        chat: render prompts with the run's template; without, they are plain text, as lm-eval's own numbers are.

    Raises:
        MissingRequirement: lm-eval is not installed.
        TkError: a task that it does not know.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingRequirement(
            f"`task: {','.join(tasks)}` needs lm-eval, which cannot be imported: {error}",
            hint="Run: pip install 'tkernel[eval]'",
        ) from error
    own = Path(options.task_dir).expanduser()
    manager = TaskManager(include_path=str(own) if own.is_dir() else None)
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise TkError(
            f"lm-eval has no task {unknown[0]!r}, and {options.task_dir} has no folder of it",
            hint=did_you_mean(unknown[0], manager.all_tasks),
        )
    tokenizer = bundle.tokenizer
    if chat and (jinja := renderer.jinja()) is not None:
        tokenizer.chat_template = jinja
    model = HFLM(pretrained=bundle.module, tokenizer=tokenizer, batch_size=options.batch_size)
    seeds = dict.fromkeys(
        ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), seed
    )
    found: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=options.n_shot,
        limit=options.eval_limit,
        task_manager=manager,
        apply_chat_template=chat,
        log_samples=False,
        **seeds,
    )
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """A line for each task and metric, with its standard error."""
    rows = []
    for task, metrics in sorted(found["results"].items()):
        for name, value in sorted(metrics.items()):
            metric, _, kind = name.partition(",")
            if isinstance(value, int | float) and "_stderr" not in metric and kind:
                error = metrics.get(f"{metric}_stderr,{kind}")
                spread = f" ± {error:.4f}" if isinstance(error, int | float) else ""
                rows.append(f"{task}  {metric} ({kind}): {value:.4f}{spread}")
    return rows

"""`tk eval`: multiple-choice questions and lm-eval's tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tkernel.cli.arguments import Plugins
from tkernel.config.bind import Owner
from tkernel.errors import TkError
from tkernel_plugins.evaluating.options import EvalOptions

OWNER = Owner("command:eval", "tkernel", EvalOptions)


def evaluate(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Render the prompts of lm-eval's tasks with the template.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Score the model and adapters of FILE on `task`: a folder of multiple-choice questions, or lm-eval's tasks.

    Example:  tk eval examples/support.yaml task=mmlu_test task_dir=evaluation n_shot=5
    """
    from tkernel.cli.arguments import split_file
    from tkernel.pipeline import open_session
    from tkernel_plugins.commands.screen import show_notes
    from tkernel_plugins.evaluating.questions import folder_of, read_subjects

    path, overrides = split_file(file, ctx.args)
    session = open_session(
        path,
        overrides=overrides,
        plugins=plugin or (),
        needs=("model_name_or_path", "task"),
        calls=("model", "adapter", "template"),
        command=OWNER,
    )
    show_notes(session)
    options: EvalOptions = session.bound.options(OWNER.label)
    task = str(options.task)
    target = _claim(options.save_dir)
    local = folder_of(task, options.task_dir)
    subjects = read_subjects(*local) if local else []

    from tkernel.pipeline import adapt, fit_vocabulary, load_model, render_template
    from tkernel_plugins.data.progress import Progress
    from tkernel_plugins.training.quiet import quiet

    with quiet():
        bundle = load_model(session, trainable=False)
        renderer = render_template(session, bundle)
        bundle = adapt(session, fit_vocabulary(bundle, session.options.seed), renderer, trainable=False)
    if local:
        from tkernel_plugins.evaluating.choices import answer

        total = sum(len(subject.questions[: options.eval_limit]) for subject in subjects)
        with Progress("answer", total) as progress:
            answers = answer(
                *(bundle, renderer, subjects),
                n_shot=options.n_shot,
                lang=options.lang,
                batch_size=options.batch_size,
                limit=options.eval_limit,
                advance=progress.advance,
            )
        if answers.fewer_shots:
            typer.echo(
                f"note: {answers.fewer_shots} questions had fewer examples, to fit the model", err=True
            )
        lines = answers.lines() or ["these questions have no answers to compare with"]
        results: dict[str, Any] = {
            subject: {str(number): letter for number, letter in enumerate(letters)}
            for subject, letters in answers.chosen.items()
        }
    else:
        from tkernel_plugins.evaluating import harness

        tasks = [name.strip() for name in task.split(",") if name.strip()]
        results = harness.evaluate(bundle, renderer, tasks, options, chat=chat, seed=session.options.seed)
        lines = harness.lines(results)
    typer.echo("\n".join(lines))
    if target is not None:
        _save(target, results, lines)


def _claim(name: str | None) -> Path | None:
    """The folder for results; one that holds some already is refused before anything is loaded."""
    if name is None:
        return None
    folder = Path(name).expanduser()
    if (folder / "results.json").exists():
        raise TkError(
            f"save_dir {folder} holds the results of an evaluation", hint="Choose another save_dir."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TkError(
            f"cannot write to {folder}: {error.strerror}", hint="Choose another save_dir."
        ) from error
    return folder


def _save(folder: Path, results: dict[str, Any], lines: Sequence[str]) -> None:
    text = json.dumps(results, indent=2, ensure_ascii=False, default=str)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"saved to {folder}")


evaluate.Options = EvalOptions  # type: ignore[attr-defined]
COMMAND = evaluate

"""What is wrong with a run of `stage: distill`, told while it is planned; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tkernel.errors import Problem, TkError
from tkernel.facts import read_facts
from tkernel.types.check import CheckRequest
from tkernel.types.facts import ModelFacts
from tkernel_plugins.training.checks import check_metric, check_training


def check_distillation(request: CheckRequest) -> Iterator[Problem]:
    """A teacher that is missing or speaks other tokens, and what training refuses."""
    yield from check_training(request)
    yield from check_metric(request, "divergence", "cross_entropy", "perplexity", "accuracy")
    options = request.options
    if options is None:
        return
    if request.arguments.get("label_smoothing_factor"):
        message = "`label_smoothing_factor` smooths labels, and the teacher's are smooth already"
        yield Problem(message, key="label_smoothing_factor", hint="Leave it out.")
    if options.temperature == 0:
        yield Problem("`temperature` divides the logits and cannot be 0", key="temperature", hint="Take 1.0.")
    if not options.teacher_model:
        hint = "Add `teacher_model: PATH`, a model with the same tokenizer."
        yield Problem("`stage: distill` needs a teacher", key="teacher_model", hint=hint)
        return
    try:
        teacher = read_facts(options.teacher_model, cache_dir=request.settings.get("cache_dir"))
    except TkError:
        return  # told by who looks for the models of a stage
    ours, theirs = (_vocabulary(facts) for facts in (request.facts, teacher))
    if ours and theirs and ours != theirs:
        other = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
        first = min(other, key=lambda name: (ours.get(name, len(ours)), name))
        yield Problem(
            f"teacher and student have different vocabularies: {len(other):,} tokens differ, {first!r} among them "
            f"({ours.get(first, 'not there')} in the student, {theirs.get(first, 'not there')} in the teacher)",
            key="teacher_model",
            hint="Take a teacher of the same family: distributions over other tokens cannot be compared.",
        )


def _vocabulary(facts: ModelFacts | None) -> Mapping[str, int]:
    """Token -> id, out of tokenizer.json; empty where there is none to be read."""
    if facts is None or facts.location is None:
        return {}
    path = Path(facts.location)
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content["model"]["vocab"]
        plain = dict(found) if isinstance(found, dict) else {item[0]: n for n, item in enumerate(found)}
        return plain | {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}  # another kind of tokenizer: compared when both are loaded

"""`do_predict` with `predict_with_generate`: the model's own replies to what it is evaluated on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tkernel.errors import DataError, TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Sampling
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.held_out import held_out_conversations
from tkernel_plugins.training.similarity import NAMES, similarity

FILE = "generated_predictions.jsonl"
PARTIAL = "generated_predictions.partial.jsonl"
"""What is done of a prediction: a line about the run, then as in `FILE`."""

SECONDS = 5
"""How often the screen says how many are done."""

NOT_ABOUT_REPLIES = (
    "output_dir",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
)
"""Settings that change no prediction."""


def predict(
    request: StageRequest, bundle: ModelBundle, *, output_dir: Path, batch_size: int, steps: int, go_on: bool
) -> dict[str, float]:
    """Reply to every conversation of the evaluation data but for its last message, and compare.

    Writes `generated_predictions.jsonl`, a line for each: `prompt` (with its special tokens), `predict`,
    `label`. A prediction that was stopped goes on after its last whole batch with `go_on`, if it is one of the
    same settings and of a model after as many steps.

    Args:
        bundle: the model, in memory.
        steps: that it was trained, for telling one prediction from another.

    Returns:
        `predict_bleu-4`, `predict_rouge-1`, `predict_rouge-2`, `predict_rouge-l`, means from 0 to 100, and the
        time it took.

    Raises:
        DataError: there is nothing to predict.
    """
    if request.open_engine is None:
        raise TkError("this stage was called without an engine", hint="Run it with `tk run`.")
    partial = output_dir / PARTIAL
    head = {"settings": _digest(request.settings), "steps": steps}
    done = read_partial(partial, head) if go_on else []
    if done:
        print(f"going on after {len(done)} predictions", flush=True)
    started, first = time.monotonic(), len(done)
    told = started
    engine = request.open_engine(bundle)
    sampling = _sampling(request)
    try:
        _restart(partial, head, done)
        waiting = _asked(request)
        for number, (prompt, label) in enumerate(islice(waiting, len(done))):
            if (done[number]["prompt"], done[number]["label"]) != (_prompt(request, prompt), label):
                raise DataError(
                    f"{partial} is of other data: line {number + 2} has another prompt",
                    hint=f"Delete {partial}, or restore the data.",
                )
        with partial.open("a", encoding="utf-8") as file:
            while batch := list(islice(waiting, batch_size)):
                replies = engine.reply([prompt for prompt, _ in batch], sampling)
                for (prompt, label), reply in zip(batch, replies, strict=True):
                    line = {"prompt": _prompt(request, prompt), "predict": reply.text, "label": label}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    done.append(line)
                file.flush()
                if time.monotonic() - told > SECONDS:
                    told = time.monotonic()
                    print(f"predicted {len(done)}", flush=True)
    except (KeyboardInterrupt, SystemExit):
        print(f"{len(done)} predictions are kept; go on with `resume_from_checkpoint=true`", flush=True)
        raise
    finally:
        engine.close()
    if not done:
        raise DataError("there is nothing to predict", hint="Name a held-out set: `eval_dataset: NAME`.")
    metrics = scores(done)
    seconds = max(time.monotonic() - started, 1e-9)
    metrics["predict_runtime"] = round(seconds, 4)
    metrics["predict_samples_per_second"] = round((len(done) - first) / seconds, 3)
    draft = output_dir / f"{FILE}.tmp"
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in done)
    draft.write_text("".join(lines), encoding="utf-8")
    os.replace(draft, output_dir / FILE)
    partial.unlink()
    return metrics


def scores(lines: list[dict[str, str]]) -> dict[str, float]:
    """The means over predictions, rounded to four places as LLaMA-Factory does."""
    each = [similarity(line["predict"], line["label"]) for line in lines]
    means = {name: sum(round(one[name], 4) for one in each) / len(each) for name in NAMES}
    return {f"predict_{name}": round(value, 4) for name, value in means.items()}


def read_partial(path: Path, head: Mapping[str, Any]) -> list[dict[str, str]]:
    """The whole lines of a prediction that was stopped; none if it is another one, or there is none."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # what was being written when the process died
            break
    return lines[1:] if lines and lines[0] == dict(head) else []


def _restart(path: Path, head: Mapping[str, Any], done: list[dict[str, str]]) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(
        "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in (head, *done)), encoding="utf-8"
    )
    os.replace(draft, path)


def _asked(request: StageRequest) -> Iterator[tuple[Conversation, str]]:
    """Each conversation up to its last reply, and the text of that reply as it is in the training data."""
    for whole in held_out_conversations(request):
        messages = list(whole.messages)
        while messages and messages[-1].role != "assistant":
            messages.pop()
        if not messages:
            raise DataError("a conversation has no reply that a prediction could be compared with")
        prompt = dataclasses.replace(whole, messages=tuple(messages[:-1]))
        yield prompt, _label(request, dataclasses.replace(whole, messages=tuple(messages)), prompt)


def _label(request: StageRequest, whole: Conversation, prompt: Conversation) -> str:
    (encoded,) = request.renderer.encode([whole])
    before = list(request.renderer.prompt_ids(prompt))
    ids = list(encoded.input_ids)
    if ids[: len(before)] != before:  # media that are not expanded here, or thoughts that a prompt opens
        return whole.messages[-1].content
    text: str = request.bundle.tokenizer.decode(ids[len(before) :], skip_special_tokens=True)
    return text.rstrip("\n")  # what some templates write after the end of a turn is no part of a reply


def _prompt(request: StageRequest, prompt: Conversation) -> str:
    ids = request.renderer.prompt_ids(prompt)
    text: str = request.bundle.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def _sampling(request: StageRequest) -> Sampling | None:
    """None for the engine's own options, unless `eval_num_beams` says otherwise."""
    beams = getattr(request.options, "eval_num_beams", None)
    if beams is None:
        return None
    names = {field.name for field in dataclasses.fields(Sampling)}
    said = {name: value for name, value in request.settings.items() if name in names}
    return Sampling(**{**said, "num_beams": beams})


def _digest(settings: Mapping[str, Any]) -> str:
    kept = {key: str(value) for key, value in settings.items() if key not in NOT_ABOUT_REPLIES}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

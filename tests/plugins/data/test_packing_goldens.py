"""Packed rows are LLaMA-Factory's: ids, labels, masks, positions and boundaries, in its order."""

from __future__ import annotations

import copy
import functools
import gzip
import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from data_kit import from_info
from kinds_kit import built_in, encoder

from tkernel_plugins.data.collator_packed import PackedCollator, Separation, number_samples
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.packing import Packing, pack, packing_of

NO_MEDIA = [2**32]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Callable[[str], Rows]:
    @functools.cache
    def rows(name: str) -> Rows:
        with gzip.open(shared / "golden" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return rows


@pytest.fixture(scope="module")
def packed(shared: Path) -> Callable[[str, str, str, str], tuple[Rows, Packing, Any]]:
    """`packed(kind, dataset, template, options)`: packed rows of the head of a data file, as a list."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "golden" / "smollm2-tokenizer")

    @functools.cache
    def rows(kind: str, dataset: str, template: str, options: str) -> tuple[Rows, Packing, Any]:
        name, _, count = dataset.removesuffix("]").partition("[:")
        renderer = built_in(template, copy.deepcopy(tokenizer))
        packing = packing_of(PrepareOptions(**json.loads(options)), kind, renderer.tokenizer)
        assert packing is not None
        given = from_info(shared / "data", name, rows=kind).rows.select(range(int(count)))
        encode = encoder(kind, renderer, how=packing, **json.loads(options))
        return pack(encode(given.with_format("arrow")[:]), packing).to_pylist(), packing, renderer.tokenizer

    return rows


def test_packed_conversations_are_the_goldens(golden: Any, packed: Any) -> None:
    for expected in golden("sft_packing"):
        options = json.dumps(expected["options"])
        rows, packing, tokenizer = packed("supervised", expected["dataset"], expected["template"], options)
        row, where = rows[expected["row"]], (expected["template"], options, expected["row"])
        batch = PackedCollator(
            tokenizer.pad_token_id,
            padded=packing.padded,
            separation=Separation() if packing.separate else None,
        )([row])
        for name in ("input_ids", "labels", "position_ids"):
            assert batch[name][0].tolist() == expected[name], (name, where)
        padding = packing.padded - len(row["input_ids"])
        if packing.separate:
            mask = number_samples(row["lengths"]).tolist() + [0] * padding
            assert expected["packing_params"] == {
                "sequence_boundaries": list(accumulate([*row["lengths"], padding], initial=0)),
                "right_padding_length": padding,
                **{f"{medium}_subseq_ids": NO_MEDIA for medium in ("image", "video", "audio")},
            }
        else:
            mask = batch["attention_mask"][0].tolist()
            assert expected["packing_params"] is None
        assert mask == expected["attention_mask"], where


@pytest.mark.parametrize("template", ["default", "llama3", "smollm2"])
def test_blocks_of_text_are_the_goldens(golden: Any, packed: Any, template: str) -> None:
    wanted = [row for row in golden("other_stages") if (row["stage"], row["template"]) == ("pt", template)]
    for expected in wanted:
        if expected["options"]["packing"]:
            rows, _, _ = packed("text", expected["dataset"], template, json.dumps(expected["options"]))
            assert rows[expected["row"]]["input_ids"] == expected["input_ids"]


def test_text_is_packed_to_whole_blocks_of_cutoff_len_by_default(golden: Any, packed: Any) -> None:
    rows, _, _ = packed("text", "c4_demo[:40]", "smollm2", '{"cutoff_len": 128}')
    ours = {tuple(row["input_ids"]) for row in rows}
    batches = golden("batches_pt_c4")
    assert batches
    assert all(tuple(batch["input_ids"][0]) in ours for batch in batches)

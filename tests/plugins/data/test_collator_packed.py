"""Batches of rows that hold several samples: ids, positions, masks, and labels of first tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tkernel_plugins.data.collator_packed import PackedCollator, Separation, block_diagonal, number_samples
from tkernel_plugins.data.collator_text import TextCollator


def row(*samples, origin=0, **columns):
    ids = [token for sample in samples for token in sample]
    origins = [{"file": "f", "row": origin + index, "line": None} for index in range(len(samples))]
    lengths = [len(sample) for sample in samples]
    return {"input_ids": ids, "labels": ids, "lengths": lengths, "origins": origins, **columns}


ROWS = [row([5, 6, 7], [8, 9]), row([4, 4], origin=2)]


def test_rows_are_padded_to_the_length_of_the_run():
    batch = PackedCollator(3, padded=8, separation=Separation())(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3, 3, 3], [4, 4, 3, 3, 3, 3, 3, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [-100, 6, 7, -100, 9, -100, -100, -100],
        [-100, 4, -100, -100, -100, -100, -100, -100],
    ]
    assert "attention_mask" not in batch
    assert batch["use_cache"] is False
    assert batch["tokens"] == 7
    assert [origin["row"] for origin in batch["origin"]] == [0, 1, 2]


def test_samples_that_see_each_other_have_a_mask_of_ones():
    batch = PackedCollator(3, padded=6)(ROWS)
    assert batch["attention_mask"].tolist() == [[1] * 6] * 2
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]


def test_a_stream_of_text_learns_the_first_token_of_a_text_from_the_text_before():
    batch = PackedCollator(3, run_on=True)([row([5, 6, 7], [8, 9])])
    assert batch["labels"].tolist() == [[5, 6, 7, 8, 9]]
    assert "position_ids" not in batch


def test_the_token_that_fills_rows_is_not_learned_in_texts():
    batch = TextCollator(PackedCollator(3, run_on=True), 3)([row([5, 3], [8, 3])])
    assert batch["input_ids"].tolist() == [[5, 3, 8, 3]]
    assert batch["labels"].tolist() == [[5, -100, 8, -100]]


def test_weights_are_one_where_a_row_has_none():
    batch = PackedCollator(3)([row([5, 6], weights=[0.5, 0.25]), row([4])])
    assert batch["weights"].tolist() == [[0.5, 0.25], [1, 1]]


@pytest.mark.parametrize(
    "rows", [ROWS, [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "origin": "x"}] * 2]
)
def test_a_joined_batch_is_one_row_without_padding(rows):
    batch = PackedCollator(3, padded=64, separation=Separation(joined=True))(rows)
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    starts = batch["position_ids"][0].eq(0).sum()
    assert starts == len(batch["origin"])
    assert batch["tokens"] == batch["input_ids"].numel()
    assert batch["labels"][0, batch["position_ids"][0] == 0].eq(-100).all()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 4))
def test_the_mask_lets_a_token_see_its_own_sample_up_to_itself(lengths, padding):
    numbers = torch.cat([number_samples(lengths), torch.zeros(padding, dtype=torch.long)])
    size = len(numbers)
    seen = block_diagonal(numbers[None], torch.bool)
    assert seen.shape == (1, 1, size, size)
    for query in range(size):
        for key in range(size):
            own = numbers[query] == numbers[key] != 0 and key <= query
            assert bool(seen[0, 0, query, key]) == (own or query == key)
    added = block_diagonal(numbers[None], torch.bfloat16)
    assert added.dtype == torch.bfloat16
    assert torch.equal(added == 0, seen)
    assert added.min() >= torch.finfo(torch.bfloat16).min

"""Joining samples: every sample once, no row too long, LLaMA-Factory's order, texts cut to blocks."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkernel.errors import ConfigError, DataError, TkError
from tkernel.testing import tiny
from tkernel_plugins.data.options import PrepareOptions, UnpackedOptions
from tkernel_plugins.data.packing import Packing, knapsacks, pack, packed_counts, packing_of


def first_fit_decreasing(lengths, room):
    """The textbook loop: the longest first, each into the first pack that has room."""
    packs = []
    for length in sorted(lengths, reverse=True):
        fitting = next((pack for pack in packs if sum(pack) + length <= room), None)
        if fitting is None:
            packs.append([length])
        else:
            fitting.append(length)
    return packs


def table(samples, **columns):
    """Encoded samples: lists of ids, labels equal to them, numbered rows."""
    origin = [{"file": "f.jsonl", "row": row, "line": row + 1} for row in range(len(samples))]
    ids = pa.array(samples, pa.list_(pa.int32()))
    return pa.table({"input_ids": ids, "labels": ids, **columns, "origin": origin})


@given(st.lists(st.integers(1, 64), max_size=60), st.integers(64, 100))
def test_every_sample_is_in_one_pack_and_no_pack_is_too_long(lengths, room):
    packs = knapsacks(lengths, room)
    assert sorted(position for pack in packs for position in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[position] for position in pack) <= room for pack in packs)


@given(st.lists(st.integers(1, 64), max_size=60), st.integers(64, 100))
def test_packs_are_those_of_first_fit_decreasing_and_equal_samples_come_last_first(lengths, room):
    packs = knapsacks(lengths, room)
    assert [[lengths[position] for position in pack] for pack in packs] == first_fit_decreasing(lengths, room)
    order = [position for pack in packs for position in pack]
    for length in set(lengths):
        same = [position for position in order if lengths[position] == length]
        assert same == sorted(same, reverse=True)


def test_a_sample_that_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match="a sample has 9 tokens and a pack has room for 8"):
        knapsacks([3, 9], 8)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), max_size=30), st.integers(20, 40))
def test_packed_rows_hold_the_samples_with_their_lengths_and_origins(samples, room):
    rows = pack(table(samples), Packing(room, padded=room + 1)).to_pylist()
    unpacked = []
    for row in rows:
        assert sum(row["lengths"]) == len(row["input_ids"]) <= room
        start = 0
        for length, origin in zip(row["lengths"], row["origins"], strict=True):
            unpacked.append((origin["row"], row["input_ids"][start : start + length]))
            assert row["labels"][start : start + length] == samples[origin["row"]]
            start += length
    assert sorted(unpacked) == list(enumerate(samples))


def test_weights_and_media_follow_their_samples():
    reference = pa.list_(pa.struct({"path": pa.string(), "bytes": pa.binary()}))
    images = [
        [{"path": "a", "bytes": None}],
        [],
        [{"path": "b", "bytes": None}, {"path": "c", "bytes": None}],
    ]
    weights = pa.array([None, [0.5, 0.25], None], pa.list_(pa.float32()))
    samples = table([[1], [2, 2], [3, 3, 3]], weights=weights, images=pa.array(images, reference))
    row, second = pack(samples, Packing(5)).to_pylist()
    assert row["input_ids"] == [3, 3, 3, 2, 2]
    assert row["weights"] == [1, 1, 1, 0.5, 0.25]
    assert [image["path"] for image in row["images"]] == ["b", "c"]
    assert second["weights"] == [1]
    assert [image["path"] for image in second["images"]] == ["a"]


def test_a_packed_table_may_come_in_chunks():
    whole = table([[1], [2, 2], [3, 3, 3]])
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 2)])
    assert pack(chunked, Packing(4)).to_pylist() == pack(whole, Packing(4)).to_pylist()
    assert (
        pack(chunked, Packing(4, blocks=True)).to_pylist() == pack(whole, Packing(4, blocks=True)).to_pylist()
    )


def test_a_sample_longer_than_a_row_is_named():
    with pytest.raises(DataError, match=r"f\.jsonl row 1: the sample has 3 tokens .* room for 2"):
        pack(table([[1], [2, 2, 2]]), Packing(2))


@given(st.lists(st.lists(st.integers(0, 99), max_size=12), max_size=20), st.integers(1, 16))
def test_blocks_are_the_stream_of_texts_cut_evenly(texts, room):
    packed = pack(table(texts), Packing(room, blocks=True))
    stream = [token for text in texts for token in text]
    blocks = [stream[start : start + room] for start in range(0, len(stream) - room + 1, room)]
    assert packed["input_ids"].to_pylist() == blocks == packed["labels"].to_pylist()
    rows = packed.to_pylist()
    owners = [row for row, text in enumerate(texts) for _ in text]
    found = []
    for row in rows:
        assert sum(row["lengths"]) == room
        assert min(row["lengths"]) > 0
        assert len({origin["row"] for origin in row["origins"]}) == len(row["origins"])
        for length, origin in zip(row["lengths"], row["origins"], strict=True):
            found += [origin["row"]] * length
    assert found == owners[: len(found)]


def test_a_tokenizer_that_adds_bos_gets_it_on_the_first_place_of_each_block():
    rows = pack(table([[1, 2, 3], [4, 5, 6, 7]]), Packing(3, blocks=True, bos=9))
    assert rows["input_ids"].to_pylist() == [[9, 2, 3], [9, 5, 6]]


def test_counts_say_how_full_rows_are():
    packing = Packing(7, padded=8)
    counts = packed_counts(pack(table([[1] * 4, [2] * 4, [3] * 3]), packing), packing)
    assert (counts.rows, counts.samples, counts.tokens, counts.capacity) == (2, 3, 11, 16)
    assert counts.efficiency == 11 / 16


def test_which_rows_are_packed_and_how_long_they_are():
    tokenizer = tiny.make_tokenizer()

    def of(rows="supervised", **options):
        return packing_of(PrepareOptions(cutoff_len=128, **options), rows, tokenizer)

    assert of() is None
    assert of(packing=True) == Packing(127, padded=128)
    assert of(neat_packing=True) == Packing(127, separate=True, padded=128)
    assert of("text") == Packing(128, blocks=True)
    assert of("text", packing=True) == Packing(127, blocks=True)
    assert of("text", neat_packing=True) == Packing(127, separate=True, blocks=True)
    assert of("text", packing=False) is None
    assert of("text", padding_free=True) is None
    assert of("preference") is None


@pytest.mark.parametrize("rows", ["preference", "feedback", "prompt"])
@pytest.mark.parametrize("key", ["packing", "neat_packing", "padding_free"])
def test_pairs_feedback_and_prompts_are_never_packed(rows, key):
    with pytest.raises(TkError, match=f"{rows} cannot be packed"):
        packing_of(PrepareOptions(**{key: True}), rows)
    with pytest.raises(ConfigError, match=f"{key} cannot be true in this stage"):
        UnpackedOptions(**{key: True})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"neat_packing": True, "packing": False}, "neat_packing: true packs and packing: false does not"),
        ({"padding_free": True, "packing": True}, "padding_free: true and packing: true are two ways"),
        ({"padding_free": True, "neat_packing": True}, "padding_free: true and neat_packing: true are two"),
        ({"packing": True, "cutoff_len": 1}, "cutoff_len must be at least 2 with packing"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        PrepareOptions(**options)

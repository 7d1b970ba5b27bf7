"""The order of rows is that of `datasets`, and depends on the seed alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_kit import loaded, prepared, rows
from data_kit import write_jsonl
from datasets import Dataset, interleave_datasets

from tkernel.errors import TkError
from tkernel_plugins.data.mix import STOPPING, merged_order
from tkernel_plugins.data.split import split_order

LENGTHS = ([3, 4, 5], [1, 1], [7, 2], [4, 4, 4, 4], [1, 5], [6])


@pytest.mark.parametrize("strategy", STOPPING)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("drawn", [False, True], ids=["in turn", "drawn"])
def test_interleaved_rows_are_those_of_datasets(strategy: str, lengths: list[int], drawn: bool) -> None:
    shares = (
        [share / sum(range(1, len(lengths) + 1)) for share in range(1, len(lengths) + 1)] if drawn else None
    )
    starts = np.cumsum([0, *lengths])
    parts = [Dataset.from_dict({"row": list(range(a, b))}) for a, b in itertools.pairwise(starts)]
    for seed in range(5):
        stopping: Any = STOPPING[strategy]
        expected = interleave_datasets(parts, shares, seed, stopping_strategy=stopping)["row"][:]
        if len(lengths) == 1:
            expected = list(range(lengths[0]))  # one dataset is taken as it is
        assert merged_order(lengths, strategy, shares, seed).tolist() == expected


def test_concatenated_rows_lie_end_to_end() -> None:
    assert merged_order([2, 3], "concat", None, 1).tolist() == [0, 1, 2, 3, 4]


def test_probabilities_are_one_for_each_dataset() -> None:
    with pytest.raises(TkError, match="`interleave_probs` has 3 numbers for 2 datasets"):
        merged_order([2, 3], "interleave_under", (0.2, 0.2, 0.6), 1)


def test_a_dataset_that_is_drawn_must_have_rows() -> None:
    with pytest.raises(TkError, match="cannot be interleaved"):
        merged_order([2, 0], "interleave_over", (0.5, 0.5), 1)


@pytest.mark.parametrize("size", [0.1, 0.33, 0.5, 2, 5, 0.07])
@pytest.mark.parametrize("count", [7, 10, 31, 100])
def test_the_split_is_that_of_datasets(size: float, count: int) -> None:
    whole = Dataset.from_dict({"row": list(range(count))})
    halves = whole.train_test_split(test_size=int(size) if size > 1 else size, seed=3)
    train, held_out = split_order(np.arange(count), size, 3)
    assert train.tolist() == halves["train"]["row"][:]
    assert held_out.tolist() == halves["test"]["row"][:]


@pytest.mark.parametrize("strategy", ["concat", *STOPPING])
def test_the_order_depends_on_neither_processes_nor_batches_nor_the_cache(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    files = [write_jsonl(tmp_path / f"{name}.jsonl", rows(count)) for name, count in (("a", 23), ("b", 9))]
    shares = None if strategy == "concat" else (0.4, 0.6)

    def run(**options: Any) -> tuple[Any, Any]:
        result = prepared(
            *map(loaded, files),
            val_size=4,
            mix_strategy=strategy,
            interleave_probs=shares,
            seed=11,
            **options,
        )
        return result.train[:], result.eval[:]

    first = run(preprocessing_batch_size=5)
    starts = merged_order([23, 9], strategy, shares, 11)
    train, held_out = split_order(starts, 4, 11)
    places = [*(("a", n) for n in range(23)), *(("b", n) for n in range(9))]
    for samples, expected in zip(first, (train, held_out), strict=True):
        found = [(Path(origin["file"]).stem, origin["row"]) for origin in samples["origin"]]
        assert found == [places[n] for n in expected]
    for options in (
        {"preprocessing_batch_size": 5},
        {"preprocessing_num_workers": 2, "overwrite_cache": True, "preprocessing_batch_size": 5},
        {"preprocessing_num_workers": 3, "preprocessing_batch_size": 3},
        {"preprocessing_batch_size": 1000},
    ):
        assert run(**options) == first, options


def test_datasets_with_other_columns_share_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    plain = write_jsonl(tmp_path / "plain.jsonl", rows(3))
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]
    weighted = write_jsonl(tmp_path / "weighted.jsonl", [{"messages": messages}] * 3)
    result = prepared(loaded(plain), loaded(weighted, form="openai"), mix_strategy="interleave_once")
    assert result.train is not None
    assert [weights is None for weights in result.train["weights"]] == [True, False] * 3
    counts = result.report.to_json()["datasets"]
    assert [(c["name"], c["read"], c["kept"]) for c in counts] == [("plain", 3, 3), ("weighted", 3, 3)]

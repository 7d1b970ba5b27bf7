"""Which rows of a dataset are taken, from where, and what is said about the others."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from data_kit import ALPACA, load, said, write_jsonl

from tkernel.errors import ConfigError, DataError
from tkernel.planning import open_session
from tkernel.testing import tiny
from tkernel.types.dataset import DatasetEntry, DatasetReport
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.datasets.alpaca import DATASET


def numbers(rows: datasets.Dataset) -> list[int]:
    return [row["origin"]["row"] for row in rows]


def test_max_samples_takes_the_first_rows_and_reads_no_more(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA[:4], {"broken": 1}])
    loaded = load(file, options=RowOptions(max_samples=3))
    assert (numbers(loaded.rows), loaded.report.read, loaded.report.kept) == ([0, 1, 2], 3, 3)
    assert len(load(ALPACA, options=RowOptions(max_samples=1000)).rows) == 30


def test_num_samples_below_the_length_takes_each_row_at_most_once() -> None:
    taken = numbers(load(ALPACA, num_samples=12).rows)
    assert taken == np.random.RandomState(42).permutation(30)[:12].tolist()


def test_num_samples_above_the_length_takes_every_row_and_then_some_again() -> None:
    taken = numbers(load(ALPACA, num_samples=70).rows)
    assert sorted(taken[:30]) == list(range(30))
    assert len(taken) == 70
    generator = np.random.RandomState(42)
    assert taken == [*generator.permutation(30), *generator.choice(30, 40)]


def test_max_samples_comes_after_num_samples() -> None:
    taken = numbers(load(ALPACA, num_samples=12).rows)
    assert numbers(load(ALPACA, num_samples=12, options=RowOptions(max_samples=5)).rows) == taken[:5]


def test_a_sample_never_holds_a_row_that_was_dropped() -> None:
    rows = [*ALPACA[:10], {"instruction": "q", "output": ""}, *ALPACA[:10]]
    loaded = load(rows, num_samples=100, options=RowOptions(on_bad_row="drop"))
    assert 10 not in numbers(loaded.rows)
    assert loaded.report.kept == len(loaded.rows)


def test_the_first_twenty_bad_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA, *[{"instruction": "q", "output": ""}] * 25])
    with pytest.raises(DataError) as caught:
        load(file)
    message = str(caught.value)
    assert "25 of 55 rows" in message
    assert message.count("no reply: `output` is empty") == 20
    assert f"{file}:31:" in message
    assert f"{file}:51:" not in message
    assert "and 5 more" in message
    assert "on_bad_row: drop" in message


def test_all_rows_bad_is_an_error_even_when_bad_rows_are_dropped() -> None:
    rows = [{"instruction": "q", "output": ""}] * 3
    with pytest.raises(DataError, match="3 of 3 rows"):
        load(rows, options=RowOptions(on_bad_row="drop"))


def test_rows_in_memory_may_be_a_dataset_or_any_iterable() -> None:
    expected = [said(row) for row in load(ALPACA).rows]
    for rows in (
        datasets.Dataset.from_list(ALPACA),
        datasets.Dataset.from_list(ALPACA).to_iterable_dataset(),
    ):
        assert [said(row) for row in load(rows).rows] == expected


def test_a_hub_dataset_is_read_by_subset_folder_and_split(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    write_jsonl(tmp_path / "part" / "train.jsonl", ALPACA[:3])
    write_jsonl(tmp_path / "part" / "test.jsonl", ALPACA[3:5])
    loaded = load(str(tmp_path), source="hf_hub", folder="part", split="test")
    assert [said(row)[0][1] for row in loaded.rows] == ["Question 3?", "Question 4?"]
    assert loaded.rows[1]["origin"] == {"file": str(tmp_path), "row": 1, "line": None}
    with pytest.raises(DataError, match=r"split 'absent'.* cannot be read from the Hugging Face hub"):
        load(str(tmp_path), source="hf_hub", folder="part", split="absent")


def test_loading_scripts_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(DataError, match="is a loading script"):
        load(str(tmp_path), source="hf_hub")
    with pytest.raises(DataError, match="is a loading script"):
        load(str(tmp_path), source="script")


def test_images_in_parquet_stay_bytes(tmp_path: Path) -> None:
    from tkernel_plugins.data.canonical import conversations

    features = datasets.Features(
        {name: datasets.Value("string") for name in ("instruction", "output")}
        | {"images": datasets.List(datasets.Image())}
    )
    row = {"instruction": "<image>", "output": "red", "images": [{"bytes": b"PNG", "path": None}]}
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "rows.parquet")
    rows = load(tmp_path / "rows.parquet", None).rows
    (found,) = conversations(rows.with_format("arrow")[:])
    assert found.images == (b"PNG",)


def test_rows_of_two_datasets_have_one_type(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    datasets.concatenate_datasets([load(ALPACA).rows, load([{"messages": messages}], "openai").rows])


def test_a_request_without_options_reads_with_the_defaults(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", ALPACA)
    report = DatasetReport("rows")
    assert len(DATASET.load_dataset(DatasetRequest(DatasetEntry("rows", str(file)), report))) == 30


def test_plain_text_for_a_stage_of_conversations_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    (tmp_path / "rows.txt").write_text("one line\n")
    wanted = {"model_name_or_path": str(tmp_path / "model"), "dataset": str(tmp_path / "rows.txt")}
    with pytest.raises(ConfigError, match=r"needs supervised rows, and dataset '.*rows\.txt' has text rows"):
        open_session(wanted)


def test_a_registered_dataset_of_another_kind_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    (tmp_path / "rows.txt").write_text("one line\n")
    (tmp_path / "dataset_info.json").write_text(
        '{"lines": {"file_name": "rows.txt", "formatting": "alpaca", "columns": {"prompt": "text"}}}'
    )
    wanted = {"model_name_or_path": str(tmp_path / "model"), "dataset_dir": str(tmp_path), "dataset": "lines"}
    with pytest.raises(ConfigError, match="dataset 'lines' has text rows; it lacks replies"):
        open_session(wanted)

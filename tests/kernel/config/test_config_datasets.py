"""Names of `dataset:` into entries, as LLaMA-Factory reads dataset_info.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tkernel.config.datasets import columns_of, resolve
from tkernel.types.dataset import DatasetEntry


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()


def declare(**entries: Any) -> None:
    Path("data/dataset_info.json").write_text(json.dumps(entries, indent=1))


def entry_of(name: str) -> DatasetEntry:
    entries, problems = resolve([name], "data", origin="train.yaml:3")
    assert problems == []
    return entries[0]


def problems_of(*names: str, **given: Any) -> list[str]:
    return [
        str(problem)
        for problem in resolve(names, **{"dataset_dir": "data", "origin": "train.yaml:3", **given})[1]
    ]


def test_a_declared_file_is_read_with_all_it_declares() -> None:
    Path("data/x.json").write_text("[]")
    declare(
        other={"file_name": "nowhere.json"},
        mine={
            "file_name": "x.json",
            "formatting": "sharegpt",
            "ranking": True,
            "subset": "s",
            "split": "test",
            "folder": "f",
            "num_samples": 5,
            "columns": {"messages": "conversations", "tools": None},
            "tags": {"role_tag": "role"},
        },
    )
    assert entry_of("mine") == DatasetEntry(
        name="mine",
        location="data/x.json",
        formatting="sharegpt",
        ranking=True,
        columns={"messages": "conversations"},
        tags={"role_tag": "role"},
        subset="s",
        split="test",
        folder="f",
        num_samples=5,
        origin="data/dataset_info.json:5",
    )


def test_what_is_not_declared_is_at_llamafactorys_default() -> None:
    Path("data/x.json").write_text("[]")
    declare(mine={"file_name": "x.json"})
    entry = entry_of("mine")
    assert (entry.formatting, entry.columns, entry.tags, entry.split, entry.ranking) == (
        "alpaca",
        None,
        None,
        "train",
        False,
    )


@pytest.mark.parametrize(
    ("fields", "source", "location"),
    [
        ({"hf_hub_url": "a/b", "ms_hub_url": "c/d", "file_name": "x.json"}, "hf_hub", "a/b"),
        ({"ms_hub_url": "c/d", "om_hub_url": "e/f", "script_url": "s"}, "ms_hub", "c/d"),
        ({"om_hub_url": "e/f", "script_url": "s"}, "om_hub", "e/f"),
        ({"script_url": "s", "cloud_file_name": "s3://x"}, "script", "s"),
        ({"cloud_file_name": "s3://x", "file_name": "x.json"}, "cloud", "s3://x"),
    ],
)
def test_the_first_source_counts(fields: dict[str, str], source: str, location: str) -> None:
    declare(mine=fields)
    entry = entry_of("mine")
    assert (entry.source, entry.location) == (source, location)


def test_a_name_that_is_not_declared_may_be_a_path_whose_format_is_open() -> None:
    declare()
    Path("rows.jsonl").write_text("{}")
    Path("data/inner.csv").write_text("a,b\n")
    assert entry_of("rows.jsonl") == DatasetEntry("rows.jsonl", "rows.jsonl", origin="train.yaml:3")
    assert entry_of("inner.csv").location == "data/inner.csv"
    assert resolve(["rows.jsonl"], "no_such_folder")[1] == []


def test_online_makes_every_name_a_hub_id() -> None:
    entries, problems = resolve(["org/rows"], "ONLINE")
    assert (entries[0].source, entries[0].location, entries[0].formatting, problems) == (
        "hf_hub",
        "org/rows",
        None,
        [],
    )


def test_what_is_wrong_is_told_with_file_and_line() -> None:
    Path("data/dataset_info.json").write_text(
        '{\n "typo": {\n  "file_nam": "x.json",\n  "formating": "sharegpt"\n },\n'
        ' "column": {\n  "file_name": "here.json",\n  "columns": {\n   "mesages": "m"\n  },\n'
        '  "tags": {"rol_tag": "r"},\n  "num_samples": 0\n },\n'
        ' "gone": {\n  "file_name": "heer.json"\n },\n "list": [],\n'
        ' "other": {"file_name": "here.json", "formatting": "theirs", "columns": {"any": "x"}}\n}\n'
    )
    Path("data/here.json").touch()
    assert problems_of("typo") == [
        "data/dataset_info.json:3: unknown key 'file_nam' in dataset 'typo'\n    Did you mean 'file_name'?",
        "data/dataset_info.json:4: unknown key 'formating' in dataset 'typo'\n    Did you mean 'formatting'?",
        "data/dataset_info.json:2: dataset 'typo' does not say where its rows are\n"
        '    Add "file_name" or "hf_hub_url".',
    ]
    assert problems_of("column") == [
        "data/dataset_info.json:12: num_samples must be at least 1, not 0",
        "data/dataset_info.json:9: unknown key 'mesages' in the columns of dataset 'column'\n"
        "    Did you mean 'messages'?",
        "data/dataset_info.json:11: unknown key 'rol_tag' in the tags of dataset 'column'\n    Did you mean 'role_tag'?",
    ]
    assert problems_of("gone") == [
        "data/dataset_info.json:15: the file of dataset 'gone' is not there: data/heer.json\n"
        "    Did you mean 'here.json'?"
    ]
    assert problems_of("list") == ["data/dataset_info.json:17: dataset 'list' is no JSON object"]
    assert problems_of("other") == []


def test_an_unknown_name_is_told_with_names_and_files_that_are_near() -> None:
    declare(identity={}, alpaca_en={})
    Path("my_rows.json").touch()
    assert problems_of("identty", "my_row.json", "xyzzy") == [
        "train.yaml:3: dataset 'identty' is neither in data/dataset_info.json nor a file\n    Did you mean 'identity'?",
        "train.yaml:3: dataset 'my_row.json' is neither in data/dataset_info.json nor a file\n"
        "    Did you mean 'my_rows.json'?",
        "train.yaml:3: dataset 'xyzzy' is neither in data/dataset_info.json nor a file\n"
        "    It has: alpaca_en, identity",
    ]


def test_a_missing_or_broken_list_of_datasets_is_told_once() -> None:
    assert problems_of("a", "b", dataset_dir="nowhere") == [
        "train.yaml:3: there is no list of datasets nowhere/dataset_info.json\n"
        "    Set dataset_dir to the folder that has dataset_info.json, or give paths of data files in `dataset`."
    ]
    Path("data/dataset_info.json").write_text('{"a": {},\n}')
    assert problems_of("a", "b") == [
        "data/dataset_info.json:2: not JSON: expecting property name enclosed in double quotes, found '}' in column 1"
    ]
    assert problems_of("a", dataset_dir="REMOTE:org/rows") == [
        "train.yaml:3: dataset_dir cannot be a repository of the hub yet\n"
        "    Download org/rows and set dataset_dir to its folder."
    ]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.json", '\ufeff[\n {"instruction": "x", "n": {"y": 1}}, {"other": 1}]', ("instruction", "n")),
        ("a.json", '{\n"pretty": 1,\n"b": 2}', ("pretty", "b")),
        ("a.jsonl", '\n{"messages": []}\n{"other": 1}\n', ("messages",)),
        ("a.csv", 'text,"a, b"\n1,2\n', ("text", "a, b")),
        ("a.txt", "hello\n", ("text",)),
        ("a.json", '[{"broken": ', None),
        ("a.json", "[]", None),
        ("a.xyz", "", None),
    ],
)
def test_columns_are_those_of_the_first_row(name: str, text: str, columns: tuple[str, ...] | None) -> None:
    Path(name).write_text(text, "utf-8")
    assert columns_of(DatasetEntry("a", name)) == columns


def test_columns_of_a_long_first_row_and_of_a_folder() -> None:
    Path("data/b.json").write_text(
        json.dumps([{"instruction": "x" * 300_000, "output": "é"}, {"z": 1}]), "utf-8"
    )
    Path("data/README.md").touch()
    assert columns_of(DatasetEntry("a", "data/b.json")) == ("instruction", "output")
    assert columns_of(DatasetEntry("a", "data")) == ("instruction", "output")


def test_columns_of_a_folder_are_those_of_its_data_however_the_files_are_spelled() -> None:
    Path("data/nested").mkdir()
    Path("data/nested/a.jsonl").write_text('{"never": 1}\n')
    Path("data/.a.jsonl").write_text('{"never": 1}\n')
    declare(x={"file_name": "train.JSONL"})
    Path("data/train.JSONL").write_text('{"messages": []}\n')
    assert columns_of(DatasetEntry("a", "data")) == ("messages",)
    assert columns_of(DatasetEntry("a", "data/train.JSONL")) == ("messages",)


def test_columns_of_parquet_and_arrow_files() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    table = pyarrow.table({"prompt": ["a"], "chosen": ["b"]})
    parquet.write_table(table, "a.parquet")
    with ipc.new_stream("a.arrow", table.schema) as stream:
        stream.write_table(table)
    with ipc.new_file("b.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        assert columns_of(DatasetEntry("a", name)) == ("prompt", "chosen"), name

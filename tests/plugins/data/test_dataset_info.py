"""Names of `dataset:` into entries, as LLaMA-Factory reads dataset_info.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.dataset_info import resolve


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
            "split": "train[:100]",
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
        split="train[:100]",
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


def test_a_name_that_is_not_declared_may_be_a_path_whose_columns_are_looked_at() -> None:
    declare()
    Path("rows.jsonl").write_text('{"a": 1}')
    Path("data/inner.csv").write_text("a,b\n1,2\n")
    seen = DatasetEntry("rows.jsonl", "rows.jsonl", origin="train.yaml:3", seen=("a",))
    assert entry_of("rows.jsonl") == seen
    assert entry_of("inner.csv").location == "data/inner.csv"
    assert entry_of("inner.csv").seen == ("a", "b")
    assert resolve(["rows.jsonl"], "no_such_folder")[1] == []


def test_a_url_is_a_dataset_and_that_of_a_file_is_its_path(tmp_path: Path) -> None:
    declare(mine={"file_name": "s3://b/x.json"}, file={"file_name": (tmp_path / "my rows.json").as_uri()})
    Path("my rows.json").write_text("[]")
    assert (entry_of("mine").source, entry_of("mine").location) == ("cloud", "s3://b/x.json")
    assert (entry_of("file").source, entry_of("file").location) == ("file", str(tmp_path / "my rows.json"))


@pytest.mark.parametrize(
    ("variables", "source"),
    [
        ((), "hf_hub"),
        (("USE_MODELSCOPE_HUB",), "ms_hub"),
        (("USE_OPENMIND_HUB",), "om_hub"),
        (("USE_OPENMIND_HUB", "USE_MODELSCOPE_HUB"), "ms_hub"),
    ],
)
def test_a_hub_whose_variable_is_set_goes_before_hugging_faces(
    variables: tuple[str, ...], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("USE_OPENMIND_HUB", "USE_MODELSCOPE_HUB"):
        monkeypatch.setenv(variable, "true" if variable in variables else "0")
    declare(
        three={"hf_hub_url": "a/hf_hub", "ms_hub_url": "a/ms_hub", "om_hub_url": "a/om_hub"},
        one={"hf_hub_url": "a/hf_hub", "file_name": "x.json"},
        other={"om_hub_url": "a/om_hub", "ms_hub_url": "a/ms_hub"},
    )
    assert (entry_of("three").source, entry_of("three").location) == (source, f"a/{source}")
    assert entry_of("one").source == "hf_hub"
    assert entry_of("other").source == "ms_hub"


def test_a_mapping_is_the_list_of_datasets_itself() -> None:
    Path("rows.json").write_text("[]")
    info = {
        "mine": {"file_name": "rows.json", "columns": {"prompt": "q", "query": None}},
        "bad": {"file_nam": 1},
    }
    (entry,), problems = resolve(["mine"], info, origin="train.yaml:3")
    assert (entry.location, entry.columns, entry.origin, problems) == (
        "rows.json",
        {"prompt": "q"},
        "dataset_dir",
        [],
    )
    assert problems_of("bad", "absent", dataset_dir=info) == [
        "dataset_dir: unknown key 'file_nam' in dataset 'bad'\n    Did you mean 'file_name'?",
        'dataset_dir: dataset \'bad\' does not say where its rows are\n    Add "file_name" or "hf_hub_url".',
        "train.yaml:3: dataset 'absent' is neither in dataset_dir nor a file\n    It has: bad, mine",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file_name": "dataset_info.json"}, "dataset 'odd' is data/dataset_info.json itself"),
        ({"file_name": "./../data/dataset_info.json"}, "dataset 'odd' is data/dataset_info.json itself"),
        ({"file_name": ""}, "dataset 'odd' does not say where its rows are: the text is empty"),
        ({"hf_hub_url": " "}, "dataset 'odd' does not say where its rows are"),
        ({"file_name": None}, "file_name is empty, and wants text"),
        ({"file_name": ["a"]}, "file_name wants text, not ['a']"),
        ({"file_name": "loop"}, "the file of dataset 'odd' is not there: data/loop"),
        ({"file_name": "x" * 5000}, "the file of dataset 'odd' is not there"),
        ({"file_name": "a\0b"}, "the file of dataset 'odd' is not there"),
        ({"cloud_file_name": "bucket/x.json"}, "'bucket/x.json' is no URL"),
        (
            {"file_name": "x.json", "subset": "s"},
            "`subset` is of datasets on a hub, and dataset 'odd' is data/x.json",
        ),
        ({"file_name": "x.json", "folder": "s"}, "`folder` is of datasets on a hub"),
        ({"file_name": "x.json", "columns": ["prompt"]}, "columns wants a mapping"),
        ({"file_name": "x.json", "columns": {"prompt": 3}}, "columns wants a mapping"),
        ({"file_name": "x.json", "tags": {"role_tag": []}}, "tags wants a mapping"),
        ({"file_name": "x.json", "ranking": "perhaps"}, "ranking wants true or false"),
        ({"file_name": "x.json", "num_samples": 1.5}, "num_samples wants a whole number"),
    ],
)
def test_an_odd_entry_is_a_problem_at_its_line(fields: dict[str, Any], message: str) -> None:
    Path("data/x.json").write_text("[]")
    Path("data/loop").symlink_to("loop")
    declare(odd=fields)
    (problem,) = problems_of("odd")
    assert problem.startswith("data/dataset_info.json:")
    assert message in problem


def test_paths_may_be_absolute_outside_have_spaces_and_be_symlinks(tmp_path: Path) -> None:
    outside = tmp_path / "out side" / "räder 100%.json"
    outside.parent.mkdir()
    outside.write_text("[]")
    Path("data/link.json").symlink_to(outside)
    declare(
        absolute={"file_name": str(outside)},
        above={"file_name": "../out side/räder 100%.json"},
        link={"file_name": "link.json"},
        folder={"file_name": "../out side"},
    )
    for name in ("absolute", "above", "link", "folder"):
        assert entry_of(name).path.resolve().is_relative_to(outside.parent)


@pytest.mark.parametrize("content", ["[]", "3", "", "{", "\0", '{"a": {"file_name": }}'])
def test_a_list_that_is_no_object_is_told_with_its_place(content: str) -> None:
    Path("data/dataset_info.json").write_text(content)
    (problem,) = problems_of("a")
    assert problem.startswith("data/dataset_info.json")


def test_a_list_that_is_a_folder_or_a_loop_is_told() -> None:
    Path("data/dataset_info.json").mkdir()
    assert "is a folder" in problems_of("a")[0]
    Path("data/dataset_info.json").rmdir()
    Path("data/dataset_info.json").symlink_to("dataset_info.json")
    assert "cannot read data/dataset_info.json" in problems_of("a")[0]


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
    (problem,) = problems_of("a.json", dataset_dir="nowhere")
    assert "there is no file a.json, and no list of datasets nowhere/dataset_info.json" in problem
    Path("data/dataset_info.json").write_text('{"a": {},\n}')
    assert problems_of("a", "b") == [
        "data/dataset_info.json:2: not JSON: expecting property name enclosed in double quotes, found '}' in column 1"
    ]

"""Files of every kind are read with the place of each row, and broken ones are named by place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_kit import ALPACA, load, said, write_json, write_jsonl

from tkernel.errors import DataError
from tkernel_plugins.data import json_reader
from tkernel_plugins.data.files import read_files
from tkernel_plugins.data.options import RowOptions


def write_csv(file: Path, rows: list[dict[str, Any]]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).to_csv(file)
    return file


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(file)
    return file


def write_arrow(file: Path, rows: list[dict[str, Any]]) -> Path:
    """The format of `datasets`: an Arrow stream."""
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(file.parent / "saved"))
    next((file.parent / "saved").glob("*.arrow")).rename(file)
    return file


def write_feather(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Arrow's file format."""
    import pyarrow as pa

    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file


WRITERS: list[tuple[str, Callable[[Path, list[dict[str, Any]]], Path]]] = [
    ("rows.json", write_json), ("rows.jsonl", write_jsonl), ("rows.csv", write_csv),
    ("rows.parquet", write_parquet), ("rows.arrow", write_arrow), ("file.arrow", write_feather),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path, list[dict[str, Any]]], Path]
) -> None:
    rows = [*ALPACA, {"instruction": 'naïve "quoted", 😀\nnext line', "input": "", "output": "007"}]
    loaded = load(write(tmp_path / name, rows))
    expected = [[("user", row["instruction"]), ("assistant", row["output"])] for row in rows]
    assert [said(row) for row in loaded.rows] == expected
    assert [row["origin"]["row"] for row in loaded.rows] == list(range(len(rows)))


def test_lines_of_a_text_file_are_rows_and_blank_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\n\n  two 😀\n".encode())
    rows = load(tmp_path / "a.txt", "text", rows="text").rows
    assert [(row["text"], row["origin"]["line"]) for row in rows] == [("one", 1), ("  two 😀", 3)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.txt"])
def test_a_byte_order_mark_is_no_content(tmp_path: Path, name: str, encoding: str) -> None:
    content = {
        "rows.json": '[{"text": "é"}]', "rows.jsonl": '{"text": "é"}\n', "rows.csv": "text\né\n", "rows.txt": "é\n",
    }  # fmt: skip
    (tmp_path / name).write_bytes(content[name].encode(encoding))
    assert [row.value for row in read_files(str(tmp_path / name))] == [{"text": "é"}]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_below_data_and_objects_one_after_another_are_read_too(
    tmp_path: Path, indent: int | None
) -> None:
    write_json(tmp_path / "plain.json", ALPACA, indent)
    write_json(tmp_path / "data.json", {"data": ALPACA, "version": 1}, indent)
    objects = "\n".join(json.dumps(row, indent=indent) for row in ALPACA)
    (tmp_path / "objects.json").write_text(objects)
    write_json(tmp_path / "list.jsonl", ALPACA, indent)
    for name in ("plain.json", "data.json", "objects.json", "list.jsonl"):
        assert [row.value for row in read_files(str(tmp_path / name))] == ALPACA, name


def test_the_line_of_a_row_is_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[\n {"a": 1,\n  "b": 2}\n\n, {"a": 3}, \r\n{"a": "\\n\\n"}]\n')
    assert [row.line for row in read_files(str(tmp_path / "rows.json"))] == [2, 5, 6]
    (tmp_path / "rows.csv").write_text('a,b\n1,"x\ny"\n\n2,z\n')
    assert [row.line for row in read_files(str(tmp_path / "rows.csv"))] == [2, 5]


def test_a_window_smaller_than_a_row_changes_nothing(tmp_path: Path) -> None:
    rows = [
        *ALPACA,
        {"n": 1234567890, "t": [True, None, -1.5e-7], "é": '\u2028 😀 \\ " \n' * 9},
        12345,
        "text",
    ]
    for indent in (None, 3):
        write_json(tmp_path / "rows.json", rows, indent)
        whole = list(json_reader.read_json(tmp_path / "rows.json"))
        for size in (1, 2, 7, 64):
            with json_reader._Scanner(tmp_path / "rows.json", chunk=size) as scanner:
                assert list(scanner.array()) == whole
    assert [row.value for row in whole] == rows


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[{"a": 1},\n {"a": 2,\n  "b" 3},\n {"a": 4}]', "3:7", "Expecting ':' delimiter"),
        ('[{"a": 1}\n {"a": 2}]', "2:2", "',' or ']' was expected, not '{'"),
        ('[{"a": 1},\n {"a": "2}]', "2:8", "Unterminated string"),
        ('[{"a": 1},\n {"a": "x\ny"}]', "2:10", "Invalid control character"),
        ('[{"a": 1},\n', "2:1", "Expecting value"),
        ("7", "1:1", "a list of objects was expected"),
        ('[{"a": 1}] x', "1:12", "nothing was expected after the list"),
        ('{"a": 1,\n "b": }', "2:7", "Expecting value"),
        ("[" + "[" * 100_000, "1:2", "nested too deeply"),
        (f'[{{"a": {"1" * 5000}}}]', "1:2", "Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_a_syntax_error_is_named_by_file_line_and_column(
    tmp_path: Path, text: str, place: str, reason: str, chunk: int
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        list(json_reader.read_json(file, chunk=chunk))
    assert f"{file}:{place}: not valid JSON: {reason}" in str(caught.value)


def test_a_broken_line_of_json_lines_is_one_bad_row(tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ALPACA[:5]]
    lines[1:1] = [
        b'{"instruction": "q", "output',
        b"\xff\xfe{}",
        b'{"instruction": "q"} trailing',
        b"[" * 90_000,
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as caught:
        load(tmp_path / "rows.jsonl")
    message = str(caught.value)
    assert "4 of 9 rows" in message
    for line, reason in (
        (2, "Unterminated string"),
        (3, "not valid UTF-8"),
        (4, "Extra data"),
        (5, "recursion"),
    ):
        assert f"rows.jsonl:{line}: " in message
        assert reason in message
    dropped = load(tmp_path / "rows.jsonl", options=RowOptions(on_bad_row="drop"))
    assert (dropped.report.kept, dropped.report.rejections["not valid JSON"]) == (5, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'[{"a": "\xff"}]', "rows.json:1: not valid utf-8"),
        ("rows.json", b'[{"a": 1},\n{"a": "\xff"}]', "rows.json:2: not valid utf-8"),
        ("rows.csv", b"a,b\n1,2\n\xff,3\n", "rows.csv:3: not valid UTF-8"),
        ("rows.csv", b'a,b\n1,"2\n', "rows.csv:2: not valid CSV"),
        ("rows.csv", b"a,a\n1,2\n", "rows.csv:1: two columns"),
        ("rows.parquet", b"PAR1 no", "rows.parquet: not a readable Parquet file"),
        ("rows.arrow", b"no arrow", "rows.arrow: not a readable Arrow file"),
        ("rows.json", b"", "rows.json has no rows"),
        ("rows.json", b"[]", "rows.json has no rows"),
        ("rows.jsonl", b"\n\n", "rows.jsonl has no rows"),
        ("rows.csv", b"a,b\n", "rows.csv has no rows"),
        ("rows.xlsx", b"", "files of this kind are not read; kinds that are: json, jsonl, csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)


def test_a_row_of_csv_with_a_field_too_many_is_bad(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("instruction,output\nq,a\nq,a,b\n")
    with pytest.raises(DataError, match=r"rows\.csv:3: not valid CSV: 3 fields where the header has 2"):
        load(tmp_path / "rows.csv")


def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for part in ("b", "a", "c"):
        write_jsonl(tmp_path / f"{part}.jsonl", [{"instruction": part, "output": "x"}])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert [said(row)[0][1] for row in load(tmp_path).rows] == ["a", "b", "c"]
    write_json(tmp_path / "d.json", ALPACA)
    with pytest.raises(
        DataError, match=r"a folder of one kind of file was expected, and it has \.json, \.jsonl"
    ):
        load(tmp_path)


def test_an_empty_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data files in this folder"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"absent\.json: no such file or folder"):
        load(tmp_path / "absent.json")

"""What the first row of a dataset shows before anything is loaded, and what is wrong where it shows nothing."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.dataset_info import resolve
from tkernel_plugins.data.peek import columns_of

ROW = {"messages": [], "née": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.json", '\ufeff[\n {"instruction": "x", "n": {"y": 1}}, {"other": 1}]', ("instruction", "n")),
        ("a.json", '{\n"pretty": 1,\n"b": 2}', ("pretty", "b")),
        ("a.json", '{"data": [{"inner": 1}]}', ("inner",)),
        ("a.jsonl", '\n{"messages": []}\n{"other": 1}\n', ("messages",)),
        ("a.jsonl", '{"broken": \n{"messages": []}\n', ("messages",)),
        ("a.csv", 'text,"a, b"\n1,2\n', ("text", "a, b")),
        ("a.txt", "hello\n", ("text",)),
        ("a.TXT", "\n\nhello\n", ("text",)),
    ],
)
def test_columns_are_those_of_the_first_row_that_can_be_read(
    name: str, text: str, columns: tuple[str, ...]
) -> None:
    Path(name).write_text(text, "utf-8")
    assert columns_of(DatasetEntry("a", name)) == columns


def test_columns_of_a_long_first_row_and_of_a_folder() -> None:
    Path("data").mkdir()
    Path("data/b.json").write_text(
        json.dumps([{"instruction": "x" * 300_000, "output": "é"}, {"z": 1}]), "utf-8"
    )
    Path("data/README.md").touch()
    assert columns_of(DatasetEntry("a", "data/b.json")) == ("instruction", "output")
    assert columns_of(DatasetEntry("a", "data")) == ("instruction", "output")


def test_columns_of_a_folder_are_those_of_its_data_however_the_files_are_spelled() -> None:
    Path("data/nested").mkdir(parents=True)
    Path("data/nested/a.jsonl").write_text('{"never": 1}\n')
    Path("data/.a.jsonl").write_text('{"never": 1}\n')
    Path("data/dataset_info.json").write_text('{"never": 1}')
    Path("data/train.JSONL").write_text('{"messages": []}\n')
    assert columns_of(DatasetEntry("a", "data")) == ("messages",)
    assert columns_of(DatasetEntry("a", "data/train.JSONL")) == ("messages",)


def test_columns_of_parquet_and_arrow_files() -> None:
    import pyarrow
    from pyarrow import ipc, parquet

    table = pyarrow.table({"prompt": ["a"], "chosen": ["b"]})
    parquet.write_table(table, "a.parquet")
    with ipc.new_stream("a.arrow", table.schema) as stream:
        stream.write_table(table)
    with ipc.new_file("b.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        assert columns_of(DatasetEntry("a", name)) == ("prompt", "chosen"), name


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
def test_columns_of_compressed_files(packed: str) -> None:
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[packed]
    Path(f"rows.jsonl.{packed}").write_bytes(compress(json.dumps(ROW).encode()))
    assert columns_of(DatasetEntry("a", f"rows.jsonl.{packed}")) == tuple(ROW)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_columns_in_any_encoding_of_unicode(encoding: str) -> None:
    for name, content in (
        ("a.jsonl", json.dumps(ROW, ensure_ascii=False)),
        ("a.json", f"[{json.dumps(ROW)}]"),
    ):
        Path(name).write_text(content, encoding)
        assert columns_of(DatasetEntry("a", name)) == tuple(ROW)


def test_columns_in_the_memory_store_and_at_a_url_of_a_file() -> None:
    with fsspec.open("memory://peek/rows.jsonl", "w") as file:
        file.write(json.dumps(ROW))
    (entry,), problems = resolve(["memory://peek/rows.jsonl"])
    assert (entry.source, entry.seen, problems) == ("cloud", tuple(ROW), [])


TOLD: dict[str, tuple[bytes, str]] = {
    "latin.json": ('[{"instruction": "é"}]'.encode("latin-1"), "latin.json:1: not valid utf-8"),
    "latin.jsonl": ('{"instruction": "é"}'.encode("latin-1"), "latin.jsonl:1: not valid UTF-8"),
    "latin.csv": ("a,é\n1,2\n".encode("latin-1"), "latin.csv:1: not valid UTF-8"),
    "odd.jsonl": (json.dumps(ROW).encode("utf-16")[:-1], "odd.jsonl:1: not valid UTF-16"),
    "cut.json": (b'[{"broken": ', "cut.json:1:13: not valid JSON"),
    "cut.jsonl": (b'{"broken": ', "cut.jsonl:1: not valid JSON"),
    "list.jsonl": (b"[1, 2]", "list.jsonl:1: a row must be an object"),
    "none.json": (b"[]", "none.json has no rows"),
    "none.jsonl": (b"\n \n", "none.jsonl has no rows"),
    "none.txt": (b"", "none.txt has no rows"),
    "none.csv": (b"a,b\n", "none.csv has no rows"),
    "header.csv": (b"a,a\n1,2\n", "header.csv:1: two columns"),
    "no.parquet": (b"PAR1 no", "no.parquet: not a readable Parquet file"),
    "no.arrow": (b"no", "no.arrow: not a readable Arrow file"),
    "empty.parquet": (b"", "empty.parquet: not a readable Parquet file"),
    "cut.jsonl.gz": (gzip.compress(os.urandom(9000).hex().encode())[:200], "cut.jsonl.gz: cannot be read"),
    "no.jsonl.gz": (b'{"a": 1}', "no.jsonl.gz: cannot be read: BadGzipFile"),
    "no.jsonl.xz": (b'{"a": 1}', "no.jsonl.xz: cannot be read: LZMAError"),
    "no.jsonl.bz2": (b'{"a": 1}', "no.jsonl.bz2: cannot be read: OSError"),
    "no.xlsx": (b"x", "files of this kind are not read; kinds that are: json, jsonl"),
    "no": (b"x", "files of this kind are not read"),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_wrong_with_a_file_is_told_by_planning(name: str) -> None:
    content, message = TOLD[name]
    Path(name).write_bytes(content)
    entries, (problem,) = resolve([name], origin="train.yaml:3")
    assert entries == ()
    assert str(problem).startswith(f"train.yaml:3: dataset {name!r}: ")
    assert message in str(problem)


def test_a_file_without_permission_a_loop_and_a_pipe_are_told(tmp_path: Path) -> None:
    os.mkfifo("pipe.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        columns_of(DatasetEntry("a", "pipe.jsonl"))
    Path("loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(DataError, match="no such file or folder"):
        columns_of(DatasetEntry("a", "loop.jsonl"))
    Path("mine.jsonl").write_text('{"a": 1}')
    Path("mine.jsonl").chmod(0)
    if os.access("mine.jsonl", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match=r"mine\.jsonl: cannot be read: Permission denied"):
        columns_of(DatasetEntry("a", "mine.jsonl"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://peek/absent.jsonl", "cannot be read: FileNotFoundError"),
        ("memory://peek/absent", "there is nothing"),
        ("nosuch://a/b.jsonl", "cannot be opened"),
        ("http://127.0.0.1:9/rows.jsonl", "cannot be read"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_with_what_to_declare(url: str, message: str) -> None:
    entries, (problem,) = resolve([url], origin="train.yaml:3")
    assert entries == ()
    assert f"dataset {url!r}: " in str(problem)
    assert message in str(problem)


def test_a_server_that_never_answers_does_not_hold_up_planning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = DatasetEntry("a", f"http://127.0.0.1:{silent.getsockname()[1]}/rows.jsonl", "cloud")
        with pytest.raises(DataError, match="did not answer within 4 seconds"):
            columns_of(entry, patience=4)


def test_columns_on_modelscope_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    _, (problem,) = resolve(["org/rows"], "ONLINE")
    assert "not known before it is downloaded" in str(problem)
    assert "`formatting`" in str(problem)


def test_looking_imports_nothing_heavy(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1]}), "a.parquet")
    Path("a.jsonl").write_text('{"a": 1}')
    program = """
import sys
from tkernel_plugins.data.dataset_info import resolve
entries, problems = resolve(["a.jsonl", "a.parquet", "http://127.0.0.1:9/a.jsonl"])
assert [entry.seen for entry in entries] == [("a",), ("a",)], problems
heavy = {"numpy", "pyarrow", "datasets", "fsspec", "aiohttp", "torch", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_any_column_that_a_row_has_is_a_name(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"": 1, "a b": 2, "a\nb": 3, "😀": 4}
    Path("a.jsonl").write_text(json.dumps(odd))
    assert columns_of(DatasetEntry("a", "a.jsonl")) == tuple(odd)

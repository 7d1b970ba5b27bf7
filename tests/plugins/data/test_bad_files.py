"""Whatever a file holds and is called, reading it ends in its rows, in rows with a problem, or in a DataError."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from data_kit import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkernel.cli.app import app, guarded
from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.files import READERS
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.peek import LIGHT, columns_of
from tkernel_plugins.data.raw import RawRow
from tkernel_plugins.data.sources import content_key, raw_rows

FEW = settings(max_examples=40, suppress_health_check=list(HealthCheck))
DROP = RowOptions(on_bad_row="drop")
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
ROWS = st.lists(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.text(max_size=20) | st.integers() | st.none(), min_size=1
    ),
    min_size=1,
    max_size=6,
)


def described(file: Path) -> DatasetEntry:
    return DatasetEntry("mine", str(file), formatting="alpaca")


def outcome(file: Path) -> list[RawRow] | str:
    """The rows, or the message; any other exception fails the test."""
    try:
        return list(raw_rows(described(file)))
    except DataError as error:
        return str(error)


def seen(file: Path) -> str:
    """What planning sees: that there are columns, or the message."""
    try:
        return "columns" if all(isinstance(name, str) for name in columns_of(described(file))) else "odd"
    except DataError as error:
        return str(error)


def text_of(rows: list[Any], suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("packed", COMPRESS)
@pytest.mark.parametrize("suffix", READERS)
@FEW
@given(content=st.binary(max_size=300), cut=st.integers(0, 200), really=st.booleans())
def test_any_bytes_under_any_name_are_read_or_named(
    suffix: str, packed: str, content: bytes, cut: int, really: bool
) -> None:
    stored = COMPRESS[packed](content) if really else content
    stored = stored[: len(stored) - cut] if cut % 3 == 0 else stored
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}{packed}"
        file.write_bytes(stored)
        read = outcome(file)
        if suffix in LIGHT:
            told = seen(file)
            assert told == "columns" or file.name in told
        assert content_key(described(file))
    if isinstance(read, str):
        assert file.name in read
    else:
        assert [row.row for row in read] == list(range(len(read)))
        assert all((row.value is None) >= (row.problem is not None) for row in read)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@FEW
@given(rows=ROWS)
def test_rows_are_the_same_in_every_encoding_of_unicode(encoding: str, suffix: str, rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}"
        file.write_bytes(text_of(rows, suffix).encode(encoding))
        read = outcome(file)
    assert not isinstance(read, str), read
    assert [row.value for row in read] == rows


@FEW
@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=9), min_size=3, max_size=3
        )
    ),
    ragged=st.lists(st.integers(0, 5), max_size=3),
)
def test_csv_with_quotes_and_line_breaks_is_read_as_it_was_written(
    rows: list[Any], ragged: list[int]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b", "c"], *rows, *(["x"] * width for width in ragged if width)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        file.write_text(text.getvalue(), "utf-8", newline="")
        read = outcome(file)
    assert not isinstance(read, str), read
    assert [list(row.value.values()) for row in read[: len(rows)]] == rows
    widths = [width for width in ragged if width]
    assert [row.problem is None for row in read[len(rows) :]] == [width == 3 for width in widths]


@FEW
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=9)))
def test_a_text_file_has_a_row_for_each_line_that_is_not_blank(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.txt"
        file.write_text("x\n" + "\n".join(lines), "utf-8", newline="")
        read = outcome(file)
    assert not isinstance(read, str), read
    expected = [(number, line) for number, line in enumerate(["x", *lines], start=1) if line.strip()]
    assert [(row.line, row.value["text"]) for row in read] == expected


def test_json_that_breaks_in_the_middle_of_a_large_file_is_named_by_line(tmp_path: Path) -> None:
    row = {"instruction": "q" * 1000, "output": "a"}
    lines = [json.dumps(row)] * 20_000
    lines[15_000] = lines[15_000][:-2]
    (tmp_path / "rows.json").write_text("[\n" + ",\n".join(lines) + "\n]")
    rows = raw_rows(described(tmp_path / "rows.json"))
    assert sum(1 for _ in zip(range(15_000), rows, strict=False)) == 15_000
    with pytest.raises(DataError, match=r"rows\.json:1500[23]:\d+: not valid JSON"):
        next(rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    loaded = load(tmp_path / "rows.jsonl", options=DROP)
    assert (loaded.report.kept, loaded.report.rejected[0].line) == (19_999, 15_001)
    assert loaded.report.rejected[0].reason.startswith("not valid JSON: Unterminated string")


def test_a_line_of_a_hundred_megabytes_is_one_row(tmp_path: Path) -> None:
    long = "x" * 100_000_000
    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"instruction": "q", "output": text}) + "\n" for text in (long, "short"))
    assert [len(row.value["output"]) for row in raw_rows(described(tmp_path / "rows.jsonl"))] == [
        len(long),
        5,
    ]
    assert columns_of(described(tmp_path / "rows.jsonl")) == ("instruction", "output")


@pytest.mark.parametrize("escaped", ['"\\ud800"', '"\\udfff\\ud800"', '"a\\u0000b"'])
def test_lone_surrogates_are_rejected_and_zero_characters_are_text(tmp_path: Path, escaped: str) -> None:
    good = '{"instruction": "q", "output": "a"}'
    (tmp_path / "rows.jsonl").write_text(f'{good}\n{{"instruction": "q", "output": {escaped}}}\n')
    loaded = load(tmp_path / "rows.jsonl", options=DROP)
    surrogate = "\\ud" in escaped
    assert loaded.report.kept == (1 if surrogate else 2)
    assert list(loaded.report.rejections) == (["not valid Unicode"] if surrogate else [])


def test_text_that_is_not_unicode_is_named_by_line_in_every_kind_of_file(tmp_path: Path) -> None:
    latin = "Gr\u00fc\u00dfe".encode("latin-1")
    for name, content in (
        ("a.jsonl", b'{"instruction": "q", "output": "a"}\n{"output": "' + latin + b'"}'),
        ("a.txt", b"good\n" + latin),
        ("a.csv", b"a,b\n" + latin + b",1\n"),
        ("a.json", b'[{"a": 1},\n{"a": "' + latin + b'"}]'),
    ):
        (tmp_path / name).write_bytes(content)
        read = outcome(tmp_path / name)
        told = read if isinstance(read, str) else f"{name}:{read[-1].line}: {read[-1].problem}"
        assert f"{name}:2: not valid" in told
        assert "utf-8" in told.lower()


def parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def test_parquet_with_values_that_are_no_text_or_cannot_be_had_is_named(tmp_path: Path) -> None:
    import pyarrow

    latin = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    (tmp_path / "latin.parquet").write_bytes(parquet({"a": latin}))
    assert "latin.parquet rows 0 to 0: text is not UTF-8" in str(outcome(tmp_path / "latin.parquet"))
    far = pyarrow.array([2**62], pyarrow.int64()).view(pyarrow.timestamp("us"))
    (tmp_path / "far.parquet").write_bytes(parquet({"a": far}))
    assert "far.parquet rows 0 to 0: a value that Python lacks" in str(outcome(tmp_path / "far.parquet"))
    table = pyarrow.Table.from_arrays([far, far], names=["a", "a"])
    with pyarrow.ipc.new_stream(tmp_path / "twice.arrow", table.schema) as stream:
        stream.write_table(table)
    assert "twice.arrow: two columns have the same name" in str(outcome(tmp_path / "twice.arrow"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_parquet_and_arrow_files_are_named(tmp_path: Path, share: float) -> None:
    import pyarrow

    column = pyarrow.array(["x" * 100] * 10_000)
    whole = parquet({"a": column})
    (tmp_path / "cut.parquet").write_bytes(whole[: int(len(whole) * share)])
    assert "cut.parquet: not a readable Parquet file" in str(outcome(tmp_path / "cut.parquet"))
    table = pyarrow.table({"a": column})
    with pyarrow.ipc.new_file(tmp_path / "cut.arrow", table.schema) as file:
        file.write_table(table)
    whole = (tmp_path / "cut.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[: int(len(whole) * share)])
    assert "cut.arrow: " in str(outcome(tmp_path / "cut.arrow"))


@pytest.mark.parametrize(
    "name", ["a b.jsonl", "100%.jsonl", "räder 😀.jsonl", "new\nline.jsonl", "#?&=.jsonl", "-.JSONL"]
)
def test_any_name_that_a_file_can_have_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"instruction": "q", "output": "a"}')
    assert columns_of(described(tmp_path / name)) == ("instruction", "output")
    assert len(load(tmp_path / name).rows) == 1


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (parquet({"a": ["b"]}), ".jsonl", "not valid"),
        (parquet({"a": ["b"]}), ".json", "not valid"),
        (parquet({"a": ["b"]}), ".csv", "not valid UTF-8"),
        (b'{"a": 1}\n', ".parquet", "not a readable Parquet file"),
        (b'{"a": 1}\n', ".arrow", "not a readable Arrow file"),
        # The time is stated: it is part of the bytes, these are part of the test's name, and the two processes of
        # a parallel run must collect the same names.
        (gzip.compress(b'{"a": 1}\n', mtime=0), ".jsonl", "not valid UTF-8"),
    ],
)
def test_a_file_under_a_wrong_name_is_told_before_anything_is_loaded(
    tmp_path: Path, content: bytes, suffix: str, message: str
) -> None:
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        columns_of(described(file))
    assert file.name in str(caught.value)


def test_a_folder_of_odd_things_is_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "no data files in this folder" in str(outcome(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "more.jsonl.gz").write_bytes(gzip.compress(b'{"a": 2}\n'))
    assert [row.value for row in raw_rows(described(tmp_path))] == [{"a": 2}, {"a": 1}]
    (tmp_path / "rows.csv").write_text("a\n1\n")
    assert "a folder of one kind of file was expected, and it has .csv, .jsonl" in str(outcome(tmp_path))


def test_the_command_line_ends_with_a_message_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"none.parquet": b"no", "latin.jsonl": b'{"\xff": 1}', "empty.jsonl": b"", "odd.xyz": b"x"}
    for name, content in files.items():
        Path(name).write_bytes(content)
    words = ["plan", f"dataset={','.join([*files, 'http://127.0.0.1:9/rows.jsonl', 'absent.json'])}"]
    assert guarded(lambda: app(words, prog_name="tk")) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for expected in (
        "none.parquet: not a readable Parquet file",
        "latin.jsonl:1: not valid UTF-8",
        "empty.jsonl has no rows",
        "odd.xyz: files of this kind are not read",
        "http://127.0.0.1:9/rows.jsonl: cannot be read",
    ):
        assert expected in told

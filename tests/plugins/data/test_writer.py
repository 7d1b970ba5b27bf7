"""Rows are on disk, in one type whatever comes late in a file, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_kit import ALPACA, load, said, write_jsonl

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry, DatasetReport
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.formats import BadRow
from tkernel_plugins.data.mapped import release
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.raw import RawRow
from tkernel_plugins.data.rows import open_rows, write_rows
from tkernel_plugins.data.writer import RowWriter
from tkernel_plugins.datasets.alpaca import ALPACA as FORMAT


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    tempfile.tempdir = None
    yield folder
    tempfile.tempdir = None


def request(file: Path, **options: object) -> DatasetRequest:
    return DatasetRequest(
        DatasetEntry("rows", str(file), formatting="alpaca"),
        DatasetReport("rows"),
        options=RowOptions(**options),
    )


def image(path: str | None = None, content: bytes | None = None) -> dict[str, object]:
    return {"path": path, "bytes": content}


def row(number: int, *images: dict[str, object]) -> dict[str, object]:
    message = {"role": "user", "content": f"q{number}", "tool_calls": None, "reasoning": None}
    return {"messages": [{**message, "train": None, "weight": 1.0}], "tools": None} | {
        name: list(images) if name == "images" else [] for name in MEDIA
    }


def written(folder: Path, rows: list[dict[str, object]], batch: int) -> object:
    with RowWriter(folder / "rows.arrow", "supervised", (), pytest.fail) as writer:
        for number, values in enumerate(rows):
            writer.add(number, values, RawRow("f", number, number + 1, None))
            if number % batch == batch - 1:
                writer.flush()
    (folder / "report.json").write_text("{}")
    return open_rows(folder, DatasetReport("rows"))


def test_temporary_files_stay_while_something_is_made_of_them_and_go_with_the_next_read(
    temporary: Path,
) -> None:
    part = load(ALPACA).rows.select([3, 4]).remove_columns("tools").with_format("arrow")
    gc.collect()
    load(ALPACA[:2])
    (kept,) = {Path(item["filename"]).parent for item in part.cache_files}
    assert kept in temporary.iterdir()
    assert pickle.loads(pickle.dumps(part))[:]["origin"].to_pylist()[0]["row"] == 3
    del part
    gc.collect()
    last = load(ALPACA[:2])
    assert [Path(item["filename"]).parent for item in last.rows.cache_files] == list(temporary.iterdir())


def test_a_process_that_ends_or_is_killed_leaves_no_temporary_files(temporary: Path) -> None:
    script = "import os; from data_kit import ALPACA, load; loaded = load(ALPACA); {}"
    for ending, left in (("pass", 0), ("os.kill(os.getpid(), 9)", 1)):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        subprocess.run([sys.executable, "-c", script.format(ending)], check=False, env=environment)
        assert len(list(temporary.iterdir())) == left
    loaded = load(ALPACA)
    assert len(list(temporary.iterdir())) == 1
    del loaded


def test_a_bad_row_leaves_no_temporary_files(temporary: Path) -> None:
    with pytest.raises(DataError):
        load([*ALPACA, {"instruction": "q"}])
    assert list(temporary.iterdir()) == []


def test_rows_travel_to_another_process_as_the_name_of_their_file() -> None:
    rows = load([{"instruction": "q" * 100_000, "output": "a"}] * 10).rows
    assert len(pickle.dumps(rows)) < 20_000
    assert pickle.loads(pickle.dumps(rows))[:] == rows[:]


def test_rows_in_a_folder_are_opened_with_their_report_wherever_it_was_moved(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA, {"instruction": "q", "output": ""}])
    wanted = request(file, on_bad_row="drop")
    (tmp_path / "draft").mkdir()
    write_rows(wanted, FORMAT, tmp_path / "draft")
    (tmp_path / "draft").rename(tmp_path / "kept")
    report = DatasetReport("rows")
    rows = open_rows(tmp_path / "kept", report)
    assert [said(row) for row in rows] == [said(row) for row in load(ALPACA).rows]
    assert report == wanted.report
    assert (report.read, report.kept, report.rejected[0].line) == (31, 30, 31)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_media_that_come_late_are_in_one_type_with_the_rows_before(tmp_path: Path, batch: int) -> None:
    rows = [row(0), row(1), row(2, image("a.png")), row(3), row(4, image(content=b"PNG"), image("b.png"))]
    dataset = written(tmp_path, rows, batch)
    assert dataset["images"][:] == [[], [], [image("a.png")], [], [image(content=b"PNG"), image("b.png")]]
    assert [said(row)[0][1] for row in dataset] == ["q0", "q1", "q2", "q3", "q4"]
    assert "videos" not in dataset.column_names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "rows.arrow"]


def test_media_are_plain_paths_where_no_row_has_bytes(tmp_path: Path) -> None:
    dataset = written(tmp_path, [row(0), row(1, image("a.png"))], 1)
    assert dataset["images"][:] == [[], ["a.png"]]


def test_rows_that_cannot_be_stored_or_used_are_rejected_in_their_order_and_the_others_kept(
    tmp_path: Path,
) -> None:
    rejected: list[tuple[int | None, str]] = []
    rows = [row(number) for number in range(5)]
    rows[1]["messages"][0]["content"] = "\ud800"
    rows[4]["tools"] = "\udfff"

    def reject(raw: RawRow, bad: BadRow) -> None:
        rejected.append((raw.line, bad.reason))

    with RowWriter(tmp_path / "rows.arrow", "supervised", (), reject) as writer:
        for number, values in enumerate(rows):
            raw = RawRow("f", number, number + 1, None)
            if number == 2:
                writer.refuse(number, raw, BadRow("no reply"))
            else:
                writer.add(number, values, raw)
    assert rejected == [(2, "not valid Unicode"), (3, "no reply"), (5, "not valid Unicode")]
    assert list(writer.numbers) == [0, 3]


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    dataset = written(tmp_path, [row(number) for number in range(2000)], 1000)
    before = dataset[:]
    release(item["filename"] for item in dataset.cache_files)
    assert dataset[:] == before

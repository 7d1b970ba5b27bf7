"""Whatever rows come, a stream and the whole data say the same of them: rows, counts and places, or an error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from data_kit import FORMATS, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hostile import GOOD, PLACE, ROW, TEXT, damaged, paths

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetReport
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.options import RowOptions

FEW = settings(max_examples=25, suppress_health_check=list(HealthCheck))
KINDS = ("supervised", "preference", "feedback", "prompt", "text")

DEEP: Any = []
for _ in range(5_000):
    DEEP = [DEEP]
DEEP_OBJECT: Any = {}
for _ in range(5_000):
    DEEP_OBJECT = {"a": DEEP_OBJECT}
EXTREME = (
    "x" * 300_000,
    "\0" * 1000,
    "\ud83d",
    "a\udfffb",
    DEEP,
    DEEP_OBJECT,
    10**400,
    10**5000,
    float("nan"),
    b"\xff",
)


def outcome(
    location: Any, form: str, kind: str, options: RowOptions
) -> tuple[list[Any], DatasetReport] | str:
    """Rows and report, or the message of the DataError; any other exception fails the test."""
    try:
        loaded = load(location, None, reader=form, rows=kind, options=options)
        return [comparable(row) for row in loaded.rows], loaded.report
    except DataError as error:
        return str(error)


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row with media as `{path, bytes}`, and without the media columns that hold nothing."""
    media = {
        name: [item if isinstance(item, dict) else {"path": item, "bytes": None} for item in row[name]]
        for name in MEDIA
        if row.get(name)
    }
    return {name: value for name, value in row.items() if name not in MEDIA} | media


def check(location: Any, form: str, kind: str) -> None:
    for on_bad_row in ("drop", "error"):
        whole = outcome(location, form, kind, RowOptions(on_bad_row=on_bad_row))
        stream = outcome(location, form, kind, RowOptions(on_bad_row=on_bad_row, streaming=True))
        if isinstance(stream, str) or isinstance(whole, str):
            assert (type(stream), type(whole)) == (str, str)
            told = ("columns found", "has no rows", "this stage needs")
            assert PLACE.search(stream) or any(part in stream for part in told)
        else:
            rows, report = stream
            assert stream == whole
            assert report.read == report.kept + sum(report.rejections.values())
            assert len(rows) == report.kept
            assert all(PLACE.search(str(rejection)) for rejection in report.rejected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_any_rows_are_the_same_in_a_stream(form: str, kind: str, data: st.DataObject) -> None:
    check(data.draw(st.lists(ROW | damaged(form), min_size=1, max_size=5)), form, kind)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_extreme_value_in_any_place_is_read_or_named(form: str, kind: str) -> None:
    for extreme in EXTREME:
        rows = []
        for way in paths(GOOD[form]):
            row = json.loads(json.dumps(GOOD[form], default=str))
            holder = row
            for key in way[:-1]:
                holder = holder[key]
            holder[way[-1]] = extreme
            rows.append(row)
        loaded = {}
        for streaming in (False, True):
            options = RowOptions(on_bad_row="drop", streaming=streaming)
            loaded[streaming] = outcome(rows, form, kind, options)
        assert type(loaded[False]) is type(loaded[True])
        if not isinstance(loaded[True], str):
            report = loaded[True][1]
            assert (report.read, report.kept + sum(report.rejections.values())) == (len(rows), len(rows))
            assert report == loaded[False][1]


@FEW
@given(
    rows=st.lists(st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}) | ROW, min_size=1, max_size=6),
    blanks=st.lists(st.integers(0, 6), max_size=3),
)
def test_origin_is_the_line_that_holds_the_row(rows: list[Any], blanks: list[int]) -> None:
    lines = [json.dumps(row) for row in rows]
    for place in blanks:
        lines.insert(place, "")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for streaming in (False, True):
            options = RowOptions(on_bad_row="drop", streaming=streaming)
            found = outcome(file, "alpaca", "supervised", options)
            for row in [] if isinstance(found, str) else found[0]:
                held = json.loads(lines[row["origin"]["line"] - 1])
                assert row["messages"][-1]["content"] == held["output"]
                assert rows[row["origin"]["row"]] == held or held != held

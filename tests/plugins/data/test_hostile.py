"""Whatever is in a file, reading it ends in rows, in counted rejections, or in a DataError with a place."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_kit import FORMATS, conversation, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkernel.errors import DataError
from tkernel.types.dataset import LoadedDataset
from tkernel_plugins.data.canonical import conversations
from tkernel_plugins.data.options import RowOptions

FEW = settings(max_examples=40, suppress_health_check=list(HealthCheck))
TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "\udcff x", "\r\n", "\u2028", "<image>", "😀" * 3000, "<think>a</think>"]
    ),
    st.sampled_from(
        ['{"name": "f", "arguments": {}}', '[{"name": 1, "arguments": 2}]', "[" * 5000, "9" * 5000]
    ),
)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.just(10**400))
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
KEYS = (
    "from",
    "value",
    "role",
    "content",
    "tool_calls",
    "reasoning",
    "train",
    "weight",
    "type",
    "text",
    "function",
)
ROLES = (
    "human",
    "gpt",
    "observation",
    "function_call",
    "system",
    "user",
    "assistant",
    "tool",
    "tool_call",
    "bot",
)
CALL = st.fixed_dictionaries(
    {}, optional={"function": VALUE | st.fixed_dictionaries({"name": VALUE, "arguments": VALUE})}
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "image", "video", "odd"])},
    optional={"text": VALUE, "image_url": VALUE, "image": TEXT, "video": VALUE},
)
CONTENT = VALUE | TEXT | st.lists(PART, max_size=3)
MESSAGE = VALUE | st.fixed_dictionaries(
    {},
    optional={"from": st.sampled_from(ROLES) | VALUE, "value": CONTENT, "role": st.sampled_from(ROLES)}
    | {"content": CONTENT, "tool_calls": st.lists(CALL, max_size=2) | VALUE, "weight": VALUE, "train": VALUE},
)
ROW = VALUE | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("instruction", "input", "output", "system", "text"), TEXT | VALUE),
        **{name: VALUE | st.lists(MESSAGE, max_size=4) for name in ("conversations", "messages", "history")},
        **dict.fromkeys(("chosen", "rejected", "kto_tag"), VALUE | MESSAGE),
        **dict.fromkeys(("prompt", "completion"), TEXT | VALUE | st.lists(MESSAGE, max_size=3)),
        **dict.fromkeys(("label", "chat_template_kwargs"), VALUE),
        **{
            name: VALUE | st.lists(TEXT | PART, max_size=2)
            for name in ("images", "videos", "audios", "tools")
        },
    },
)
GOOD: dict[str, dict[str, Any]] = {
    "alpaca": {
        "instruction": "q",
        "input": "i",
        "output": "a",
        "system": "s",
        "history": [["q", "a"]],
        "images": ["a.png"],
        "tools": '[{"name": "f"}]',
        "chosen": "c",
        "rejected": "r",
        "kto_tag": True,
    },
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '<think>t</think>[{"name": "f", "arguments": {"x": 1}}]'},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "a", "weight": 0.5, "train": True},
        ],
        "tools": [{"name": "f", "parameters": {}}],
        "videos": ["a.mp4"],
        "kto_tag": "false",
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
    },
    "openai": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image", "image": "a.png"}]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1]}}}]},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "a", "reasoning_content": "t"},
        ],
        "tools": [{"type": "function"}],
        "audios": [{"path": None, "bytes": b"x"}],
        "kto_tag": False,
    },
    "text": {"text": "t"},
    "trl": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
        "label": 1,
        "text": "t",
        "tools": [{"type": "function"}],
        "images": [{"path": None, "bytes": b"x"}],
        "chat_template_kwargs": None,
    },
}


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*above, key), *paths(item, (*above, key)))]


@st.composite
def damaged(draw: st.DrawFn, form: str) -> dict[str, Any]:
    """A good row in which up to two values were replaced or taken out."""
    row = copy.deepcopy(GOOD[form])
    for _ in range(draw(st.integers(0, 2))):
        *above, last = draw(st.sampled_from(paths(row)))
        holder: Any = row
        for key in above:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(VALUE)
        else:
            del holder[last]
        if not row:
            break
    return row


PLACE = re.compile(r"(rows\.\w+|data)(:\d+| row \d+)")


def outcome(read: Callable[[], LoadedDataset]) -> LoadedDataset | str:
    """What was read, or the message of the DataError; any other exception fails the test."""
    try:
        return read()
    except DataError as error:
        return str(error)


def check(loaded: LoadedDataset | str) -> None:
    """Rows can be used; rejected ones are counted and placed; an error says where."""
    if isinstance(loaded, str):
        told = ("columns found", "has no rows", "this stage needs")
        assert PLACE.search(loaded) or any(part in loaded for part in told)
        return
    report = loaded.report
    assert report.read == report.kept + sum(report.rejections.values())
    assert all(PLACE.search(str(rejection)) for rejection in report.rejected)
    assert len(report.rejections) <= 20
    if "messages" in loaded.rows.column_names:
        whole = conversations(loaded.rows.with_format("arrow")[:])
        assert [c.messages for c in whole] == [conversation(row).messages for row in loaded.rows]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["supervised", "preference", "feedback", "prompt", "text"])
@FEW
@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_any_rows_are_read_or_named(form: str, kind: str, rows: list[Any]) -> None:
    check(outcome(lambda: load(rows, None, reader=form, rows=kind)))
    check(outcome(lambda: load(rows, None, reader=form, rows=kind, options=RowOptions(on_bad_row="drop"))))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["supervised", "preference", "feedback", "prompt", "text"])
@FEW
@given(data=st.data())
def test_damaged_rows_are_read_or_named(form: str, kind: str, data: st.DataObject) -> None:
    rows = [GOOD[form], *data.draw(st.lists(damaged(form), min_size=1, max_size=4))]
    check(outcome(lambda: load(rows, None, reader=form, rows=kind)))
    check(outcome(lambda: load(rows, None, reader=form, rows=kind, options=RowOptions(on_bad_row="drop"))))


@pytest.mark.parametrize("form", ["alpaca", "sharegpt", "openai"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt", ".parquet", ".arrow"])
@FEW
@given(
    content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_read_or_named(form: str, suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}"
        file.write_bytes(content)
        loaded = outcome(lambda: load(file, form, options=RowOptions(on_bad_row="drop")))
    if isinstance(loaded, str):
        assert f"rows{suffix}" in loaded
    else:
        check(loaded)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@FEW
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    cut=st.integers(0, 400),
    junk=st.text(max_size=5),
    indent=st.booleans(),
)
def test_json_that_breaks_in_the_middle_is_read_or_named(
    suffix: str, rows: list[Any], cut: int, junk: str, indent: bool
) -> None:
    if suffix == ".json":
        text = json.dumps(rows, indent=2 if indent else None)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    text = text[:cut] + junk + text[cut + len(junk) :]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}"
        file.write_text(text, encoding="utf-8", errors="replace", newline="")
        for form in ("alpaca", "sharegpt", "openai"):
            check(outcome(lambda form=form: load(file, form, options=RowOptions(on_bad_row="drop"))))


@FEW
@given(rows=st.lists(st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}), min_size=1, max_size=6))
def test_good_rows_arrive_unchanged(rows: list[dict[str, str]]) -> None:
    def good(row: dict[str, str]) -> bool:
        whole = row["instruction"] + row["output"]
        return bool(row["output"].strip()) and not any("\ud800" <= letter <= "\udfff" for letter in whole)

    loaded = outcome(lambda: load(rows, None, reader="alpaca", options=RowOptions(on_bad_row="drop")))
    expected = [(row["instruction"], row["output"]) for row in rows if good(row)]
    if isinstance(loaded, str):
        assert not expected
    else:
        found = [tuple(message["content"] for message in row["messages"]) for row in loaded.rows]
        assert found == expected

"""Each format reads rows as LLaMA-Factory does, and names those that it cannot read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_kit import FORMATS, conversation, from_info, load, said

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry, DatasetReport
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import conversations, media_value
from tkernel_plugins.data.media_places import references
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.padding import references_of
from tkernel_plugins.data.roles import from_llamafactory

OPENAI_SYSTEM = "detailed thinking off"
"""What LLaMA-Factory adds to rows of the format openai, whatever the model; a mistake, not followed."""


def golden_rows(shared: Path) -> list[dict[str, Any]]:
    with gzip.open(shared / "golden" / "converters.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_golden(case: dict[str, Any]) -> Any:
    info = dict(case["dataset_info"])
    info.pop("formatting", None)
    entry = DatasetEntry("golden", "memory", "memory", case["format"], data=[case["row"]], **info)
    report = DatasetReport("golden")
    return FORMATS[case["format"]].load_dataset(DatasetRequest(entry, report, rows=entry.rows))


def expected_messages(case: dict[str, Any]) -> list[tuple[str, str]]:
    """Role and content in the roles of canonical rows; results of tools that were joined stand apart."""
    output = case["output"]
    system = "" if output["_system"] == OPENAI_SYSTEM else output["_system"]
    replies = [reply for reply in output["_response"] if reply["content"]][:1]
    apart: list[dict[str, str]] = []
    for message in [*output["_prompt"], *replies]:
        parts = message["content"].split("\n</tool_response>\n<tool_response>\n")
        apart += [{"role": message["role"], "content": part} for part in parts]
    return [
        (message.role, message.content or str([(c.name, c.arguments) for c in message.tool_calls]))
        for message in from_llamafactory(apart, system).messages
    ]


@pytest.mark.parametrize("number", range(13))
def test_a_row_becomes_the_conversation_of_llama_factory(shared: Path, number: int) -> None:
    case = golden_rows(shared)[number]
    if not case["output"]["_response"]:
        with pytest.raises(DataError, match="1 of 1 rows"):
            read_golden(case)
        return
    row = read_golden(case)[0]
    column = {"chosen": "chosen", "completion": "completion"}
    reply = next((row[name] for name in column if name in row), [])
    given = conversation(row | {"messages": row["messages"] + reply})
    found = [
        (message.role, message.content or str([(c.name, c.arguments) for c in message.tool_calls]))
        for message in given.messages
    ]
    assert found == expected_messages(case)
    assert json.dumps(list(given.tools)) == (case["output"]["_tools"] or "[]")
    if "rejected" in row:
        assert said(row, "rejected") == [("assistant", case["output"]["_response"][1]["content"])]
    if "label" in row:
        assert row["label"] is bool(case["output"]["_response"][0]["content"])


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        *(("identity", 91), ("alpaca_en_demo", 999), ("glaive_toolcall_en_demo", 300), ("dpo_en_demo", 300)),
        *(("kto_en_demo", 300), ("mllm_demo", 6), ("mllm_audio_demo", 3), ("mllm_video_audio_demo", 3)),
    ],
)
def test_the_demo_data_is_read_whole(shared: Path, name: str, rows: int) -> None:
    loaded = from_info(shared / "data", name)
    assert (loaded.report.read, loaded.report.kept, loaded.report.rejections) == (rows, rows, {})
    assert [row["origin"]["row"] for row in loaded.rows] == list(range(rows))
    assert len({row["origin"]["line"] for row in loaded.rows}) == rows


@pytest.mark.parametrize("name", ["glaive_toolcall_en_demo", "mllm_demo", "alpaca_en_demo"])
def test_reading_columns_whole_gives_the_same_conversations_as_row_by_row(shared: Path, name: str) -> None:
    rows = from_info(shared / "data", name).rows
    assert conversations(rows.with_format("arrow")[:]) == [conversation(row) for row in rows]


def test_instruction_and_input_are_joined_by_a_line_break_if_both_are_there() -> None:
    rows = [
        {"instruction": "a", "input": "b", "output": "c"},
        {"instruction": "a", "input": None, "output": "c"},
    ]
    assert [said(row)[0][1] for row in load(rows).rows] == ["a\nb", "a"]


def test_undeclared_columns_are_not_read_once_columns_are_declared() -> None:
    row = {"instruction": "q", "input": "more", "output": "a", "system": "S"}
    declared = load([row], columns={"prompt": "instruction", "response": "output"})
    assert said(declared.rows[0]) == [("user", "q"), ("assistant", "a")]
    assert declared.report.notes == ["columns not read: input, system"]


def test_an_entry_without_columns_reads_only_the_formats_own() -> None:
    row = {"instruction": "q", "input": "", "output": "a", "system": "S"}
    assert said(load([row]).rows[0])[0] == ("user", "q")


def test_a_detected_file_is_read_with_every_column_that_the_format_knows() -> None:
    row = {"instruction": "q", "output": "a", "system": "S", "history": [["old", "reply"]]}
    found = load([row], None, reader="alpaca")
    assert said(found.rows[0]) == [
        *(("system", "S"), ("user", "old"), ("assistant", "reply"), ("user", "q"), ("assistant", "a"))
    ]


@pytest.mark.parametrize("reader", ["sharegpt", "openai"])
@pytest.mark.parametrize(
    ("role", "content", "user", "gpt"),
    [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")],
)
def test_messages_name_their_own_tags_where_none_are_declared(
    reader: str, role: str, content: str, user: str, gpt: str
) -> None:
    column = "conversations" if reader == "sharegpt" else "messages"
    row = {column: [{role: user, content: "q"}, {role: gpt, content: "a"}]}
    assert said(load([row], None, reader=reader).rows[0]) == [("user", "q"), ("assistant", "a")]


def test_a_tag_that_is_not_declared_does_not_exist() -> None:
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    row = {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}]}
    with pytest.raises(DataError, match=r"unknown role: 'system' in message 1; expected human, gpt"):
        load([row], "sharegpt", tags=tags)


def test_a_leading_system_message_replaces_the_column() -> None:
    messages = [
        {"from": "system", "value": "first"},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
    ]
    columns = {"messages": "conversations", "system": "system"}
    rows = [
        {"conversations": messages, "system": "column"},
        {"conversations": messages[1:], "system": "column"},
    ]
    assert [said(row)[0] for row in load(rows, "sharegpt", columns=columns).rows] == [
        ("system", "first"), ("system", "column"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_ranking_in_alpaca_takes_texts(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    file.write_text('[{"q": "a", "yes": "b", "no": "c"}]' if suffix == ".json" else "q,yes,no\na,b,c\n")
    columns = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    row = load(file, ranking=True, columns=columns).rows[0]
    assert (said(row, "chosen"), said(row, "rejected")) == ([("assistant", "b")], [("assistant", "c")])


def test_content_parts_become_text_placeholders_and_media() -> None:
    parts = [
        {"type": "text", "text": "Look: "},
        {"type": "image_url", "image_url": {"url": "cat.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
        {"type": "text", "text": " which?"},
    ]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "The first."}]}
    loaded = load([row], "openai")
    assert said(loaded.rows[0])[0] == ("user", "Look: <image><image> which?")
    (found,) = conversations(loaded.rows.with_format("arrow")[:])
    assert found.images == ("cat.png", b"\x00\x01\x02")


def test_arguments_of_calls_are_json_text_however_they_are_given() -> None:
    def row(arguments: Any) -> dict[str, Any]:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        reply = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": "q"}, reply]}

    rows = load([row({"x": 1}), row('{"x":1}')], "openai").rows
    calls = [conversation(r).messages[-1].tool_calls[0].arguments for r in rows]
    assert calls == ['{"x": 1}', '{"x":1}']


def test_train_and_weight_of_a_message_are_kept() -> None:
    messages = [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5},
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": True},
    ]  # fmt: skip
    row = load([{"messages": messages}], "openai").rows[0]
    assert [(m["train"], m["weight"]) for m in row["messages"][1::2]] == [
        (False, 1.0),
        (None, 0.5),
        (True, 1.0),
    ]


def test_media_are_found_below_the_media_folder_and_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    rows = [
        {"instruction": "<image>", "output": "x", "images": ["a.png"]},
        {"instruction": "<image>", "output": "x", "images": "b.png"},
        {"instruction": "<image>", "output": "x", "images": ["https://example.org/c.png"]},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    loaded = load(file, None, media_dir=tmp_path / "media")
    assert [row["images"] for row in loaded.rows] == [
        [str(tmp_path / "media" / "a.png")], [str(tmp_path / "b.png")], ["https://example.org/c.png"],
    ]  # fmt: skip


def test_a_video_may_be_a_list_of_frames(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"")
    video = ["1.jpg", "https://example.org/2.jpg"]
    rows: list[Any] = [
        {"instruction": "<video><video>", "output": "x", "videos": [video, "b.mp4"]},
        {"instruction": "<video>", "output": "x", "videos": [[]]},
        {"instruction": "<video>", "output": "x", "videos": [[3]]},
        {"instruction": "<image>", "output": "x", "images": [video]},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    loaded = load(file, None, options=RowOptions(on_bad_row="drop"))
    found = (str(tmp_path / "1.jpg"), "https://example.org/2.jpg")
    (conversation,) = conversations(loaded.rows.with_format("arrow")[:])
    assert conversation.videos == (found, "b.mp4")
    assert [references_of(row).videos for row in loaded.rows] == [(found, "b.mp4")]
    assert [media_value(item) for item in references(conversation)["videos"]] == [found, "b.mp4"]
    assert list(loaded.report.rejections) == [
        "a video without frames",
        "the frames of a video must be paths or URLs",
        "`images` must hold paths, URLs or bytes",
    ]


def test_a_part_of_a_message_may_be_a_video_of_frames(tmp_path: Path) -> None:
    parts = [{"type": "video", "video": ["1.jpg", "2.jpg"]}, {"type": "text", "text": "?"}]
    asked = [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"messages": asked}]))
    (row,) = load(file, "openai").rows
    assert references_of(row).videos == (("1.jpg", "2.jpg"),)


Q, A = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
BAD = {
    "no messages": [],
    "no reply: the conversation ends with a question": [Q, A, Q],
    "wrong order of roles: message 2 is from 'human', expected 'gpt' or 'function_call'": [Q, Q, A],
    "wrong order of roles: message 1 is from 'gpt'": [A, Q],
    "unknown role: 'gtp' in message 2; Did you mean 'gpt'?": [Q, {"from": "gtp", "value": "a"}],
    "an empty reply: message 2 says nothing": [Q, {"from": "gpt", "value": "  "}],
    "a function call that is not valid JSON": [Q, {"from": "function_call", "value": "{name: f}"}],
    "`value` of a message is null": [Q, {"from": "gpt", "value": None}],
    "a message without `value`": [Q, {"from": "gpt"}],
    "a message without `from`": [Q, {"value": "a"}],
    "a message must be an object: message 2 is text": [Q, "a"],
    "`value` of a message must be text: in message 2 it is a number": [Q, {"from": "gpt", "value": 3}],
    "`conversations` must be a list: it is a number": 7,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_conversation_is_named_with_its_reason(reason: str) -> None:
    good = {"conversations": [Q, A]}
    with pytest.raises(DataError) as caught:
        load([good, {"conversations": BAD[reason]}, good], "sharegpt")
    assert "1 of 3 rows" in str(caught.value)
    assert f"data row 1: {reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "q"}, "no column `output`"),
        ({"instruction": "q", "output": ""}, "no reply: `output` is empty"),
        ({"instruction": "q", "output": None}, "`output` is null"),
        ({"instruction": 1, "output": "a"}, "`instruction` must be text: it is a number"),
        ({"instruction": "q", "output": "a", "tools": "[{"}, "`tools` is not valid JSON"),
        ({"instruction": "q", "output": "a", "tools": "[1]"}, "`tools` must be a list of tools"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "`history` must be a list of pairs"),
        ({"instruction": "q", "output": "a", "images": [3]}, "`images` must hold paths, URLs or bytes"),
        ({"instruction": "q", "output": "\ud800"}, "not valid Unicode: lone surrogate '\\ud800'"),
        ("text", "a row must be an object: it is text"),
    ],
)
def test_a_bad_row_is_dropped_and_counted_when_asked(row: Any, reason: str) -> None:
    good = {"instruction": "q", "output": "a"}
    loaded = load([good, row, good], None, options=RowOptions(on_bad_row="drop"))
    assert (loaded.report.read, loaded.report.kept, len(loaded.rows)) == (3, 2, 2)
    (rejection,) = loaded.report.rejected
    assert reason in str(rejection)
    assert sum(loaded.report.rejections.values()) == 1


def test_a_dataset_of_another_kind_than_the_stage_needs_is_refused_with_what_to_declare() -> None:
    rows = [{"instruction": "q", "output": "a"}]
    with pytest.raises(
        DataError, match="has supervised rows, and this stage needs preference rows"
    ) as caught:
        load(rows, rows="preference", origin="dataset_info.json:3")
    assert "ranking: true" in str(caught.value)
    assert "dataset_info.json:3" in str(caught.value)


def test_an_unknown_name_in_columns_is_refused_with_what_was_meant() -> None:
    with pytest.raises(DataError, match="Did you mean 'response'"):
        load([{"instruction": "q", "output": "a"}], columns={"prompt": "instruction", "respons": "output"})


def test_a_declared_column_that_no_row_has_is_refused() -> None:
    with pytest.raises(DataError, match=r"declares `system: sytem` and no row has that column"):
        load(
            [{"instruction": "q", "output": "a", "system": "S"}],
            columns={"prompt": "instruction", "response": "output", "system": "sytem"},
        )


def test_wrong_columns_are_one_error_with_what_would_fit(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"conversations": [], "extra": 1}\n' * 3)
    with pytest.raises(DataError) as caught:
        load(file)
    message = str(caught.value)
    assert f"{file}: no row has the column `instruction`" in message
    assert "columns found: conversations, extra" in message
    assert "fit the format sharegpt" in message

"""TRL's forms, told from the columns or declared as `trl`, as canonical rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_kit import FORMATS, said

from tkernel.choose import choose
from tkernel.config.settle import Settings
from tkernel.errors import AmbiguousProvider, DataError, TkError
from tkernel.index import read_index
from tkernel.pins import Pins
from tkernel.types.dataset import DatasetEntry, DatasetReport
from tkernel.types.plan import Plan
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.canonical import conversations
from tkernel_plugins.data.options import RowOptions

Q = {"role": "user", "content": "What color is the sky?"}
A, B = {"role": "assistant", "content": "It is blue."}, {"role": "assistant", "content": "It is green."}
FORMS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "text": ({"text": "The sky is blue."}, "text", ("text",)),
    "messages": ({"messages": [Q, A]}, "openai", ("supervised", "prompt")),
    "prompt": ({"prompt": "The sky is"}, "trl", ("prompt",)),
    "chat prompt": ({"prompt": [Q]}, "trl", ("prompt",)),
    "completion": ({"prompt": "The sky is", "completion": " blue."}, "trl", ("supervised", "prompt")),
    "chat completion": ({"prompt": [Q], "completion": [A]}, "trl", ("supervised", "prompt")),
    "pair": ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, "trl", ("preference", "prompt")),
    "chat pair": ({"prompt": [Q], "chosen": [A], "rejected": [B]}, "trl", ("preference", "prompt")),
    "implicit": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "trl", ("preference",)),
    "chat implicit": ({"chosen": [Q, A], "rejected": [Q, B]}, "trl", ("preference",)),
    "unpaired": ({"prompt": "The sky is", "completion": " blue.", "label": True}, "trl", ("feedback", "prompt")),
    "chat unpaired": ({"prompt": [Q], "completion": [A], "label": False}, "trl", ("feedback", "prompt")),
}  # fmt: skip


def chosen_format(*columns: str) -> tuple[Plan, list[TkError]]:
    entry = DatasetEntry("d", "d", seen=columns, origin="train.yaml:2")
    plan, errors = choose(Settings([]), [entry], None, read_index(), Pins(), lambda entry: None)
    return plan, [error for error in errors if "'d'" in str(error)]


def plugin_of(row: dict[str, Any]) -> str:
    plan, errors = chosen_format(*row)
    assert errors == []
    choice = plan.chosen("dataset", "d")
    assert choice is not None
    return choice.target.partition(":")[0].rpartition(".")[2]


def load(row: Any, kind: str, form: str = "trl", **entry: Any) -> dict[str, Any]:
    rows = row if isinstance(row, list) else [row]
    declared = DatasetEntry("data", "memory", "memory", data=rows, **{"seen": tuple(rows[0])} | entry)
    dataset = FORMATS[form].load_dataset(DatasetRequest(declared, DatasetReport("data"), rows=kind))
    return dict(dataset[0])


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_told_from_its_columns_and_yields_the_kinds_of_rows_that_it_is_for(name: str) -> None:
    row, form, kinds = FORMS[name]
    assert plugin_of(row) == form
    assert FORMATS[form].kinds(DatasetEntry("d", "x", seen=tuple(row))) == kinds
    assert FORMATS[form].unknown_names(DatasetEntry("d", "x", seen=tuple(row))) == []


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("declared", [False, True])
def test_a_form_becomes_the_rows_of_its_kind(name: str, declared: bool) -> None:
    row, form, kinds = FORMS[name]
    read = load(row, kinds[0], "trl" if declared else form, formatting="trl" if declared else None)
    plain = isinstance(row.get("prompt", row.get("chosen")), str)
    question, good, bad = (
        ("The sky is", " blue.", " green.") if plain else (Q["content"], A["content"], B["content"])
    )
    if kinds[0] == "text":
        assert read["text"] == row["text"]
        return
    expected = [("user", question)]
    if kinds[0] == "supervised":
        expected += [("assistant", good)]
    assert said(read) == expected
    if kinds[0] == "preference":
        assert (said(read, "chosen"), said(read, "rejected")) == ([("assistant", good)], [("assistant", bad)])
    if kinds[0] == "feedback":
        assert (said(read, "completion"), read["label"]) == ([("assistant", good)], row["label"])


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        (("instruction", "input", "output", "text"), "alpaca"),
        (("text", "instruction", "output"), "alpaca"),
        (("chosen", "instruction", "rejected", "output"), "alpaca"),
        (("conversations", "chosen", "rejected"), "sharegpt"),
        (("prompt", "prompt_id", "messages"), "openai"),
        (("label", "completion", "prompt", "tools"), "trl"),
        (("id", "score_chosen", "rejected", "chosen"), "trl"),
        (("text", "label"), "text"),
    ],
)
def test_the_format_that_knows_most_of_the_columns_is_taken(columns: tuple[str, ...], form: str) -> None:
    assert plugin_of(dict.fromkeys(columns)) == form


@pytest.mark.parametrize(
    ("columns", "both"),
    [
        (("messages", "text"), ("a column 'messages'", "a column 'text'")),
        (("conversations", "messages"), ("sharegpt", "openai")),
        (
            ("prompt", "messages", "chosen", "rejected"),
            (
                "the columns 'messages' and 'chosen' and 'rejected'",
                "the columns 'prompt' and 'chosen' and 'rejected'",
            ),
        ),
    ],
)
def test_columns_that_fit_two_formats_alike_are_an_error_that_names_both(
    columns: tuple[str, ...], both: tuple[str, ...]
) -> None:
    _, (error,) = chosen_format(*columns)
    assert isinstance(error, AmbiguousProvider)
    assert str(error).startswith("train.yaml:2: the format of 'd' is not clear: ")
    assert "`formatting` in dataset_info.json" in str(error)
    assert all(part in str(error) for part in both if " " in part)


def test_of_a_prompt_and_its_completion_only_the_completion_is_learned() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    row = {"prompt": [Q, A, Q], "completion": [call, {"role": "tool", "content": "blue"}, A]}
    messages = load(row, "supervised")["messages"]
    assert [message["role"] for message in messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert [message["train"] for message in messages] == [None, False, None, None, None, None]


def test_what_a_pair_has_in_common_belongs_to_its_prompt() -> None:
    system = {"role": "system", "content": "S"}
    whole = {"chosen": [system, Q, A, Q, A], "rejected": [system, Q, A, Q, B]}
    implicit = load(whole, "preference")
    assert said(implicit) == [
        ("system", "S"),
        *(("user", Q["content"]), ("assistant", A["content"])),
        ("user", Q["content"]),
    ]
    assert said(load({"prompt": Q["content"], **whole}, "preference")) == said(implicit)
    assert said(load({"prompt": [system, Q, A, Q], "chosen": [A], "rejected": [B]}, "preference")) == said(
        implicit
    )


def test_tools_images_and_columns_of_other_names_are_read() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    row = {"question": "q", "answer": "a", "tools": json.dumps(tools), "pictures": ["a.png", "b.png"]}
    names = {"prompt": "question", "completion": "answer", "tools": "tools", "images": "pictures"}
    read = load(row, "supervised", formatting="trl", columns=names)
    assert said(read) == [("user", "<image><image>q"), ("assistant", "a")]
    assert (json.loads(read["tools"]), read["images"]) == (tools, ["a.png", "b.png"])


def test_an_image_has_its_place_where_the_message_says_or_before_the_first_question(tmp_path: Path) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Which? "}, {"type": "image"}]}
    image = {"bytes": b"x", "path": None}
    for row, text in (
        ({"prompt": [parts], "completion": [A], "image": image}, "Which? <image>"),
        ({"prompt": "Which?", "completion": "one", "images": [image, image]}, "<image><image>Which?"),
        ({"prompt": "<image>?", "completion": "one", "images": [image]}, "<image>?"),
    ):
        read = load(row, "supervised")
        assert said(read)[0] == ("user", text)
        assert len(read["images"]) == text.count("<image>")


@pytest.mark.parametrize("form", ["trl", "openai"])
def test_template_arguments_of_a_row_are_refused_unless_they_say_nothing(form: str) -> None:
    row = {"messages": [Q, A], "chat_template_kwargs": {"enable_thinking": False}}
    with pytest.raises(DataError, match="`chat_template_kwargs` cannot differ from row to row"):
        load(row, "supervised", form)
    assert load({**row, "chat_template_kwargs": {"enable_thinking": None}}, "supervised", form)
    assert load({**row, "chat_template_kwargs": None}, "supervised", form)


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"prompt": 3, "completion": "a"}, "supervised", "`prompt` must be text or a list of messages"),
        ({"prompt": "q", "completion": " "}, "supervised", "an empty reply"),
        ({"prompt": "q", "completion": []}, "supervised", "no reply: the conversation ends with a question"),
        ({"prompt": [A], "completion": [A]}, "supervised", "wrong order of roles"),
        ({"prompt": "q", "completion": None}, "supervised", "`completion` is null"),
        ({"chosen": "a", "rejected": "b"}, "preference", "do not begin alike"),
        ({"chosen": "same", "rejected": "same"}, "preference", "an empty reply"),
        ({"chosen": [Q, A], "rejected": [Q, A]}, "preference", "must differ in their last message"),
        ({"chosen": [Q, A, Q, A], "rejected": [Q, B]}, "preference", "must differ in their last message"),
        ({"chosen": [], "rejected": []}, "preference", "must differ in their last message"),
        ({"prompt": "q", "chosen": "a", "rejected": 1}, "preference", "must be text or a list of messages"),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, "feedback", "`label` must be true or false"),
        ({"text": ""}, "text", "an empty text"),
        ({"prompt": "q", "text": 1}, "text", "`text` must be text"),
    ],
)
def test_a_row_that_is_none_of_the_forms_is_named(row: dict[str, Any], kind: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        load(row, kind)
    assert f"data row 0: {reason}" in str(caught.value) or reason in str(caught.value)


@pytest.mark.parametrize("kind", ["supervised", "preference", "feedback", "text"])
def test_a_kind_of_rows_that_the_columns_cannot_give_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match=f"has prompt rows, and this stage needs {kind} rows"):
        load({"prompt": "q"}, kind)


@pytest.mark.parametrize("label", [True, 1, "true", "TRUE", "1", False, 0, "false", "0"])
def test_a_label_may_be_written_in_several_ways(label: Any) -> None:
    row = {"prompt": "q", "completion": "a", "label": label}
    assert load(row, "feedback")["label"] is (str(label).lower() in ("true", "1"))


def test_unknown_columns_tags_and_splits_are_told_with_their_line() -> None:
    places = {"columns.prmpt": "dataset_info.json:7", "tags.rol_tag": "dataset_info.json:9"}
    entry = DatasetEntry(
        "d", "x.json", formatting="trl", columns={"prmpt": "q"}, tags={"rol_tag": "r"}, split="test",
        origin="dataset_info.json:2", places=places,
    )  # fmt: skip
    assert [str(problem) for problem in FORMATS["trl"].unknown_names(entry)] == [
        "dataset_info.json:7: unknown key 'prmpt' in the columns of dataset 'd'\n    Did you mean 'prompt'?",
        "dataset_info.json:9: unknown key 'rol_tag' in the tags of dataset 'd'\n    Did you mean 'role_tag'?",
        "dataset_info.json:2: dataset 'd' has no split 'test': files have the split `train` alone, or a part of "
        "it such as `train[:100]` or `train[10%:]`",
    ]
    (problem,) = FORMATS["alpaca"].unknown_names(DatasetEntry("d", "x", tags={"role_tag": "role"}))
    assert "no roles to tag" in problem.message


def test_declared_rows_are_of_the_kind_that_llama_factorys_keys_say() -> None:
    def kinds(form: str, **entry: Any) -> str:
        found = FORMATS[form].kinds(DatasetEntry("d", "x", formatting=form, **entry))
        return str(found[0])

    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert kinds("alpaca") == "supervised"
    assert kinds("alpaca", columns=pair, ranking=True) == "preference"
    assert kinds("alpaca", columns={**pair, "response": "r"}) == "supervised"
    assert kinds("alpaca", columns={"prompt": "q", "response": "r", "kto_tag": "l"}) == "feedback"
    assert kinds("alpaca", columns={"prompt": "text"}) == "text"
    assert kinds("sharegpt", columns={"messages": "m", "kto_tag": "l"}) == "feedback"
    assert (
        kinds("openai", columns={"messages": "m", "chosen": "c", "rejected": "r"}, ranking=True)
        == "preference"
    )


def test_conversations_of_trl_rows_are_read_whole() -> None:
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": [Q], "completion": [A]}]
    entry = DatasetEntry("data", "memory", "memory", data=rows, seen=("prompt", "completion"))
    request = DatasetRequest(entry, DatasetReport("data"), options=RowOptions())
    table = FORMATS["trl"].load_dataset(request).with_format("arrow")[:]
    assert [c.messages[-1].content for c in conversations(table)] == ["a", A["content"]]

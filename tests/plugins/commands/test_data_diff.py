"""`tk data view --diff`: where two templates differ, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from seeing_kit import Page, make_folder, of_kind, tk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("diff"))


def compared(folder: Path, *words: str | int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(tk(folder, "view", *words, "--json"))
    return values


def check(difference: dict[str, Any]) -> None:
    """The changes turn the first side into the second, and cover both."""
    first, second = difference["first"], difference["second"]
    built: list[str] = []
    left = right = 0
    for change in difference["changes"]:
        assert [change["first"][0], change["second"][0]] == [left, right]
        left, right = change["first"][1], change["second"][1]
        taken = second["pieces"][change["second"][0] : right]
        if change["kind"] in ("same", "labels"):
            assert first["pieces"][change["first"][0] : left] == taken
            learned = [
                [label != -100 for label in side["labels"][slice(*change[name])]]
                for side, name in ((first, "first"), (second, "second"))
            ]
            assert (learned[0] == learned[1]) == (change["kind"] == "same")
        built += taken
    assert built == second["pieces"]
    assert left == len(first["pieces"])


@pytest.mark.parametrize("other", ["qwen3", "llama3", "glm4", "alpaca"])
def test_changes_lead_from_one_template_to_the_other(folder: Path, other: str) -> None:
    found = compared(folder, "--diff", "auto", other, "run.yaml", "dataset=chats")
    assert found["templates"] == ["auto", other]
    difference = found["row"]["strips"]["input"]
    assert difference["same"] is False
    check(difference)
    first = difference["first_difference"]["tokens"][0]
    same = difference["changes"][0]
    assert first == (same["first"][1] if same["kind"] == "same" else 0)
    assert difference["first_difference"]["character"] == sum(map(len, difference["first"]["pieces"][:first]))


def test_equal_templates_are_equal_on_every_row(folder: Path) -> None:
    found = compared(folder, "--diff", "chatml", "chatml", "run.yaml")
    assert (found["rows_compared"], found["row"]) == (8, None)
    assert "all 8 rows alike" in tk(folder, "view", "run.yaml", "--diff", "chatml", "chatml")


def test_auto_alone_is_compared_with_the_template_of_the_run(folder: Path) -> None:
    found = compared(folder, "run.yaml", "template=qwen3", "--diff", "auto")
    assert found["templates"] == ["qwen3", "auto"]
    text = tk(folder, "view", "run.yaml", "template=qwen3", "--diff", "auto")
    assert "data/lines.jsonl:1: qwen3 and auto differ from token 30" in text
    assert "- [<think>⏎⏎</think>⏎⏎]" in text


def test_one_row_and_one_sample_can_be_asked_for(folder: Path) -> None:
    found = compared(folder, "--diff", "qwen3", "auto", "run.yaml", "--row", "lines.jsonl:5")
    assert found["row"]["origin"]["line"] == 5
    found = compared(folder, "--diff", "qwen3", "auto", "run.yaml", "--index", 2)
    assert found["row"]["origin"]["line"] == 3


def test_both_sides_of_a_pair_are_compared(folder: Path) -> None:
    found = compared(folder, "--diff", "qwen3", "llama3", "run.yaml", *of_kind("preference"))
    assert set(found["row"]["strips"]) == {"chosen", "rejected"}
    for difference in found["row"]["strips"].values():
        check(difference)


def test_labels_alone_can_differ(folder: Path) -> None:
    (folder / "quiet.py").write_text(QUIET)
    words = ("run.yaml", "--plugin", "./quiet.py", "--diff", "auto", "quiet")
    kinds = {change["kind"] for change in compared(folder, *words)["row"]["strips"]["input"]["changes"]}
    assert kinds == {"same", "labels"}
    assert "~ <|im_end|>⏎: learned with auto, not with quiet" in tk(folder, "view", *words)


QUIET = '''
from dataclasses import replace
from tkernel import hookimpl
from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.rendering import Segment, Turn


def turns(conversation):
    return [
        Turn(
            (Segment("<|im_start|>", special=True), Segment("user\\n" + prompt[0].content),
             Segment("<|im_end|>", special=True), Segment("\\n"), Segment("<|im_start|>", special=True),
             Segment("assistant\\n")),
            (Segment(reply.content), Segment("<|im_end|>", special=True), Segment("\\n")),
        )
        for prompt, reply in exchanges(conversation)
    ]


class Renderer(SegmentRenderer):
    """Learns replies without their end."""

    def encode(self, *args, **kwargs):
        return [replace(e, labels=[*e.labels[:-2], -100, -100]) for e in super().encode(*args, **kwargs)]


class Quiet:
    name = "quiet"

    @hookimpl
    def render_template(self, request):
        return Renderer("quiet", request.tokenizer, turns, stop_words=("<|im_end|>",))


QUIET = Quiet()
'''


def test_a_row_that_one_template_refuses_is_said_to_be_refused(folder: Path) -> None:
    (folder / "fussy.py").write_text(
        QUIET.replace('name = "quiet"', 'name = "fussy"').replace(
            "    return [\n",
            "    from tkernel.errors import DataError\n    raise DataError('no words')\n    return [\n",
            1,
        )
    )
    text = tk(folder, "view", "run.yaml", "--plugin", "./fussy.py", "--diff", "auto", "fussy")
    assert "fussy refuses it: no words" in text


def test_the_page_of_a_difference_is_escaped(folder: Path) -> None:
    file = folder / "diff.html"
    tk(folder, "view", "run.yaml", "dataset=chats", "--diff", "auto", "llama3", "--html", file)
    text = file.read_text(encoding="utf-8")
    Page(text)
    assert "<del>" in text
    assert "&lt;|start_header_id|&gt;" in text


def test_a_plugin_that_neither_template_needs_is_an_error(folder: Path) -> None:
    (folder / "quiet.py").write_text(QUIET)
    words = ("run.yaml", "template=chatml", "--plugin", "./quiet.py", "--diff", "auto", "qwen3")
    assert "nothing in this run can use './quiet.py'" in tk(folder, "view", *words, code=2)


def test_wrong_requests_are_named(folder: Path) -> None:
    assert "no installed plugin is template:nope" in tk(
        folder, "view", "run.yaml", "--diff", "auto", "nope", code=2
    )
    assert "no template renders" in tk(folder, "view", "run.yaml", *of_kind("text"), "--diff", "auto", code=2)
    assert "one of them" in tk(folder, "view", "run.yaml", "--diff", "auto", "--find", "rejected", code=2)

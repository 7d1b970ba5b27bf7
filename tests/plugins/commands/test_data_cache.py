"""`tk data cache`, and the cache as runs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from seeing_kit import make_folder, process, tk

from tkernel_plugins.data.cache import entries
from tkernel_plugins.data.prepare import REPORT

TEMPLATE = """
from tkernel import hookimpl
from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.rendering import Segment, Turn

def turns_of(conversation):
    return [
        Turn((Segment("{word}" + prompt[-1].content),), (Segment(reply.content),))
        for prompt, reply in exchanges(conversation)
    ]

class Mine:
    name = "mine"

    @hookimpl
    def render_template(self, request):
        return SegmentRenderer("mine", request.tokenizer, turns_of)

TEMPLATE = Mine()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(report: str) -> str:
    return str(json.loads(report)["cache"])


def test_what_is_kept_is_listed_with_size_and_age(made: Path, own_cache: Path) -> None:
    assert tk(made, "cache", "list") == f"0 entries, 0 B in {own_cache}\n"
    tk(made, "prepare", "run.yaml")
    lines = tk(made, "cache", "list").splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["rows", "samples"]
    assert "lines; supervised, auto, cutoff_len 2048" in lines[1]
    assert lines[2].startswith("2 entries, ")
    listed = json.loads(tk(made, "cache", "list", "--json"))
    assert {entry["kind"] for entry in listed} == {"rows", "samples"}
    assert listed[1]["components"]["cutoff_len"] == "2048"
    assert all(entry["bytes"] > 0 for entry in listed)


def test_explain_says_what_differs_from_the_most_similar_entry(made: Path) -> None:
    assert tk(made, "cache", "explain", "run.yaml") == "miss: nothing is cached yet\n"
    tk(made, "prepare", "run.yaml")
    assert tk(made, "cache", "explain", "run.yaml").startswith("hit: ")
    lines = tk(made, "cache", "explain", "run.yaml", "cutoff_len=64", "template=chatml").splitlines()
    assert lines[0] == "miss: the most similar entry differs in"
    assert "  - cutoff_len: 2048" in lines
    assert "  + cutoff_len: 64" in lines
    assert any(line.startswith("  + template: tkernel==") for line in lines)
    said = json.loads(tk(made, "cache", "explain", "run.yaml", "cutoff_len=64", "--json"))
    assert said["hit"] is False
    assert said["difference"] == ["- cutoff_len: 2048", "+ cutoff_len: 64"]
    assert len(entries("samples")) == 1


def test_entries_are_removed_all_or_by_name_or_by_age(made: Path) -> None:
    tk(made, "prepare", "run.yaml")
    assert tk(made, "cache", "clear", "--unused-for", 1) == "removed 0 entries, 0 B\n"
    (entry,) = entries("samples")
    assert tk(made, "cache", "clear", entry.folder.name[:8]).startswith("removed 1 entries, ")
    assert (len(entries("rows")), len(entries("samples"))) == (1, 0)
    assert "no entry is named 'nothing'" in tk(made, "cache", "clear", "nothing", code=2)
    assert tk(made, "cache", "clear").startswith("removed 1 entries, ")
    assert cached(tk(made, "prepare", "run.yaml", "--json")) == "miss: nothing is cached yet"


def test_a_plugin_file_that_was_edited_is_another_plugin(made: Path) -> None:
    words = ("prepare", "run.yaml", "--plugin", "./mine.py", "template=mine", "--json")
    (made / "mine.py").write_text(TEMPLATE.format(word="Q: "))
    assert cached(tk(made, *words)) == "miss: nothing is cached yet"
    assert cached(tk(made, *words)).startswith("hit: ")
    (made / "mine.py").write_text(TEMPLATE.format(word="Q: ") + "# a comment\n")
    assert cached(tk(made, *words)) == "miss: the template changed"
    (made / "mine.py").write_text(TEMPLATE.format(word="A: "))
    assert cached(tk(made, *words)) == "miss: the template changed"


def test_a_jinja_file_that_was_edited_is_another_template(made: Path) -> None:
    own = json.loads((made / "model" / "tokenizer_config.json").read_text()).get("chat_template")
    own = own or (made / "model" / "chat_template.jinja").read_text()
    words = ("prepare", "run.yaml", "template=./mine.jinja", "--json")
    (made / "mine.jinja").write_text(own)
    tk(made, *words)
    assert cached(tk(made, *words)).startswith("hit: ")
    (made / "mine.jinja").write_text(own + "{# for later #}")
    assert cached(tk(made, *words)) == "miss: the template changed"


def test_another_process_finds_what_was_prepared(made: Path) -> None:
    first = process(made, "prepare", "run.yaml", "--json")
    assert first.returncode == 0, first.stderr
    second = process(made, "prepare", "run.yaml", "--json")
    assert cached(first.stdout) == "miss: nothing is cached yet"
    assert cached(second.stdout).startswith("hit: ")
    report = json.loads((made / "out" / REPORT).read_text())
    assert report["datasets"] == json.loads(first.stdout)["datasets"]


EXTENSION = """
from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.rendering import SegmentRenderer

@dataclass(frozen=True)
class Options:
    \"\"\"Options.\"\"\"

    mark: str = "a"

class Marks:
    name, Options = "marks", Options

    @hookimpl(wrapper=True)
    def render_template(self, request):
        renderer = yield
        mark = request.slots.options("marks").mark
        renderer.encode = lambda conversations, inner=renderer.encode, **how: inner(
            [conversation.replace(messages=tuple(marked(conversation, mark))) for conversation in conversations],
            **how,
        )
        return renderer

def marked(conversation, mark):
    import dataclasses
    for message in conversation.messages:
        text = message.content + mark if message.role == "user" else message.content
        yield dataclasses.replace(message, content=text)

MARKS = Marks()
"""


def test_an_option_of_an_extension_that_changes_the_template_is_a_miss(made: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "marks.py"
    plugin.write_text(EXTENSION)
    words = ("run.yaml", "--plugin", str(plugin))
    tk(made, "prepare", *words)
    assert tk(made, "cache", "explain", *words).startswith("hit: ")
    said = tk(made, "cache", "explain", *words, "mark=b")
    assert said.startswith("miss: ")
    assert "extension marks" in said


def test_the_date_is_part_of_the_key_where_the_template_prints_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for template, same in (("llama3", False), ("chatml", True)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        tk(made, "prepare", "run.yaml", f"template={template}")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700100000")
        assert tk(made, "cache", "explain", "run.yaml", f"template={template}").startswith("hit: ") == same

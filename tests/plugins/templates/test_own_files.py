"""A user's own template: a Jinja file, or a file of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.doors import open_door
from tkernel.errors import BrokenPlugin, DataError, NoProvider
from tkernel.planning import open_session
from tkernel.rendering import SegmentRenderer
from tkernel.testing import TemplateContract, tiny
from tkernel.testing.contract import suite_of
from tkernel.types.conversation import Conversation, Message
from tkernel.types.requests import TemplateRequest

JINJA = """\
{%- for message in messages -%}
    {%- if message.role not in ('system', 'user', 'assistant') -%}
        {{ raise_exception('there is no place for ' + message.role) }}
    {%- endif -%}
    {{ '<|' + message.role + '|>' + message.content + '<|end|>\\n' }}
{%- endfor -%}
{{ '<|assistant|>' if add_generation_prompt }}
"""
VALUE = """\
from tkernel_plugins.templates.template import Template

MINE = Template(
    name="mine",
    user=("<|user|>{{content}}<|end|><|assistant|>",),
    assistant=("{{content}}<|end|>",),
    system=("<|system|>{{content}}<|end|>",),
    stop_words=("<|end|>",),
)
"""
OBJECT = """\
from tkernel import hookimpl
from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.rendering import Segment, Turn


def turns_of(conversation):
    return [
        Turn((Segment("Q: "), *(Segment(m.content, typed=((0, len(m.content)),)) for m in asked), Segment("A: ")),
             (Segment(reply.content, typed=((0, len(reply.content)),)), Segment("<|end|>", special=True)))
        for asked, reply in exchanges(conversation)
    ]


class Mine:
    name = "mine"

    @hookimpl
    def render_template(self, request):
        return SegmentRenderer("mine", request.tokenizer, turns_of, stop_words=("<|end|>",))


MINE = Mine()
"""
TALK = Conversation(
    (
        *(Message("user", "Hi"), Message("assistant", "Hello <|end|>"), Message("user", "And?")),
        Message("assistant", "12"),
    )
)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def renderer_of(file: str) -> SegmentRenderer:
    (entry,) = open_door(file)
    return entry.object.render_template(TemplateRequest(entry.name, tiny.make_tokenizer()))


class TestJinjaFile(TemplateContract):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        type(self).plugin = write(tmp_path, "mine.v2.jinja", JINJA)

    def setup_method(self) -> None:
        """The file is written by the fixture; it needs nothing told."""


@pytest.mark.parametrize(("name", "text"), [("mine.jinja", JINJA), ("mine.py", VALUE)])
def test_a_file_keeps_the_contract_with_nothing_told(tmp_path: Path, name: str, text: str) -> None:
    file = write(tmp_path, name, text)
    command = [sys.executable, "-m", "tkernel", "plugins", "test", f"template:{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout
    assert " failed" not in done.stdout


def test_a_test_class_of_three_lines_hears_what_the_plugin_says_of_itself(tmp_path: Path) -> None:
    ended_by_text = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    file = write(tmp_path, "plain.jinja", ended_by_text + "{{ 'assistant: ' if add_generation_prompt }}")
    told = suite_of("template", file)
    assert issubclass(told, TemplateContract)
    suite = type("TestPlain", (TemplateContract,), {"plugin": file})()
    suite.setup_method()
    assert suite.efficient_eos is told.efficient_eos is True
    assert suite.terminator == told.terminator == "(\\\n<\\|im_end\\|>)"
    suite.test_supervises_exactly_the_reply_and_its_terminator()


def test_what_ends_replies_of_a_jinja_file_stops_them(tmp_path: Path) -> None:
    used = renderer_of(write(tmp_path, "mine.jinja", JINJA))
    assert used.stop_words == ("<|end|>", "<|im_end|>")
    (encoded,) = used.encode([TALK])
    learned = [
        used.tokenizer.decode(encoded.labels[start:end])
        for start, end, _, part in encoded.spans
        if part == "reply"
    ]
    assert learned == ["Hello <|end|><|end|>\n", "12<|end|>\n"]
    end = used.tokenizer.convert_tokens_to_ids("<|end|>")
    assert encoded.input_ids.count(end) == 4  # the one that was typed is text
    assert used.jinja() == JINJA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}\n{{ m.content | shout }}\n{% endfor %}", ":2: No filter named 'shout'"),
        ("{% for m in messages %}\n{{ m.content }\n{% endfor %}", ":2: unexpected '}'"),
        ("{% for m in messages %}", ":1: Unexpected end of template"),
        ("\n{% if true %}{{ messages | shout }}{% endif %}", ":2: it cannot render a question: No filter"),
        (
            "{% for m in messages %}\n{{ m.a.b }}\n{% endfor %}",
            ":2: it cannot render a question: 'dict object'",
        ),
        ("\n\n{{ raise_exception('never') }}", ":3: it cannot render a question: never"),
        ("{% for m in messages %}{{ 1 / 0 }}{% endfor %}", ":1: it cannot render a question: division"),
        ("Hello", "it renders a question without what is asked"),
        ("", "it renders a question without what is asked"),
    ],
)
def test_a_broken_jinja_file_names_its_line_when_binding(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, "mine.jinja", text)
    with pytest.raises(BrokenPlugin, match=r"mine\.jinja") as caught:
        open_door(file)
    assert message in str(caught.value)


def test_a_jinja_file_of_other_bytes_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(BrokenPlugin, match="is not UTF-8"):
        open_door(str(tmp_path / "mine.jinja"))


@pytest.mark.parametrize("text", [JINJA, "{% generation %}x{% endgeneration %}" + JINJA])
def test_a_run_names_the_file_where_a_template_is_named(tmp_path: Path, text: str) -> None:
    model = tiny.save_model(tmp_path / "model").name
    write(tmp_path, "mine.jinja", text)
    lines = f"model_name_or_path: {model}\ntemplate: {tmp_path}/mine.jinja\n"
    config = write(tmp_path, "run.yaml", lines)
    session = open_session(config)
    choice = session.choice("template")
    assert (choice.name, choice.distribution, choice.how) == ("mine", "file", "pinned")
    locked = session.lock().plan["template"]
    write(tmp_path, "mine.jinja", f"{text}{{# changed #}}")
    assert open_session(config).lock().plan["template"] != locked


@pytest.mark.parametrize("name", ["gone.jinja", "gone.py"])
def test_a_file_that_is_not_there_is_told_with_the_line_that_names_it(tmp_path: Path, name: str) -> None:
    config = write(tmp_path, "run.yaml", f"model_name_or_path: x\ntemplate: {tmp_path}/{name}\n")
    with pytest.raises(NoProvider, match=rf"run.yaml:2: There is no plugin file .*{name}"):
        open_session(config)


@pytest.mark.parametrize("text", [VALUE, OBJECT])
@pytest.mark.parametrize("by", ["key", "plugin"])
def test_a_file_of_python_is_a_template_by_key_or_by_plugin(tmp_path: Path, text: str, by: str) -> None:
    model = tiny.save_model(tmp_path / "model").name
    file = write(tmp_path, "mine.py", text)
    named = {"template": file if by == "key" else "mine"}
    session = open_session(
        {"model_name_or_path": str(model), **named}, plugins=[file] if by == "plugin" else []
    )
    assert session.choice("template").name == "mine"


def test_a_line_of_a_refusing_template_is_in_the_error_of_the_conversation(tmp_path: Path) -> None:
    used = renderer_of(write(tmp_path, "mine.jinja", JINJA))
    with pytest.raises(DataError, match="in line 3: there is no place for tool"):
        used.text(Conversation((Message("user", "a"), Message("tool", "b"), Message("assistant", "c"))))

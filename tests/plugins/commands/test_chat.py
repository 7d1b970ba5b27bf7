"""`tk chat`: one reply, a piped conversation, slash commands, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tkernel.testing import tiny
from tkernel.types.conversation import Message, ToolCall
from tkernel.types.engine import Delta
from tkernel_plugins.commands.chat_loop import Chat


class Echo:
    """An engine that repeats the last message word by word, and is interrupted at the word `^C`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, ...]] = []
        self.tools: list[tuple] = []

    def stream(self, conversations, sampling=None) -> Iterator[Delta]:
        (conversation,) = conversations
        self.asked.append(conversation.messages)
        self.tools.append(conversation.tools)
        for word in conversation.messages[-1].content.split(" "):
            if word == "^C":
                raise KeyboardInterrupt
            yield Delta(0, word + " ")
        yield Delta(0, "", (), "stop")


@pytest.fixture
def talk(capsys):
    """Lines typed into a chat with an echo -> the engine and what was printed."""

    def run(*lines, system=None):
        engine = Echo()
        stdin, sys.stdin = sys.stdin, io.StringIO("\n".join(lines) + "\n")
        try:
            Chat(engine, system).loop()
        finally:
            sys.stdin = stdin
        return engine, capsys.readouterr().out

    return run


def said(messages):
    return [(message.role, message.content.strip()) for message in messages]


def test_every_line_is_asked_with_all_that_was_said_before(talk):
    engine, printed = talk("one", "two")
    assert said(engine.asked[1]) == [("user", "one"), ("assistant", "one"), ("user", "two")]
    assert printed.split() == ["one", "two"]


def test_bytes_that_are_not_utf_8_are_asked_as_replacement_characters(talk):
    engine, _ = talk("caf\udce9", system="\udcff")
    assert said(engine.asked[0]) == [("system", "\ufffd"), ("user", "caf\ufffd")]


def test_clear_forgets_the_conversation_and_keeps_the_system_prompt(talk):
    engine, _ = talk("one", "/clear", "two", system="Be brief.")
    assert said(engine.asked[-1]) == [("system", "Be brief."), ("user", "two")]


def test_system_sets_and_takes_away_the_system_prompt(talk):
    engine, _ = talk("/system Be kind.", "one", "/system", "two")
    assert said(engine.asked[0]) == [("system", "Be kind."), ("user", "one")]
    assert said(engine.asked[1]) == [("user", "two")]


def test_history_shows_and_save_writes_the_conversation(talk, tmp_path):
    _, printed = talk("one", "/history", f"/save {tmp_path / 'chat.json'}", system="Be brief.")
    assert "system: Be brief." in printed
    assert "user: one" in printed
    saved = json.loads((tmp_path / "chat.json").read_text())["messages"]
    assert [(m["role"], m["content"].strip()) for m in saved] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "one"),
    ]


WEATHER = {"type": "function", "function": {"name": "weather", "description": "w", "parameters": {}}}


def test_tools_of_a_file_are_offered_and_taken_away(talk, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER["function"]]))
    engine, printed = talk(f"/tools {tmp_path / 'tools.json'}", "one", "/tools", "two")
    assert engine.tools == [(WEATHER,), ()]
    assert "tools: weather" in printed


def test_a_file_that_is_no_list_of_tools_is_said_and_the_chat_goes_on(talk, tmp_path):
    (tmp_path / "tools.json").write_text('[{"parameters": {}}]')
    engine, printed = talk(f"/tools {tmp_path / 'tools.json'}", f"/tools {tmp_path / 'none'}", "one")
    assert "is no list of tools" in printed
    assert "cannot read" in printed
    assert engine.tools == [()]


def test_a_call_is_answered_with_tool_and_saved_as_a_call(talk, tmp_path, monkeypatch):
    called = Message("assistant", "", (ToolCall("weather", "{}"),))
    monkeypatch.setattr(Echo, "renderer", SimpleNamespace(parse_reply=lambda text: called), raising=False)
    engine, printed = talk("/tool early", "hot?", "/tool 30", "/history", f"/save {tmp_path / 'c.json'}")
    assert "no tool was called" in printed
    assert "assistant: weather({})" in printed
    assert said(engine.asked[1])[-1] == ("tool", "30")
    saved = json.loads((tmp_path / "c.json").read_text())["messages"]
    assert saved[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}


def test_interrupting_a_reply_stops_the_reply_and_not_the_chat(talk):
    engine, printed = talk("one ^C two", "three")
    assert "[stopped]" in printed
    assert said(engine.asked[1])[1] == ("assistant", "one")


def test_a_backslash_joins_lines_and_exit_ends(talk):
    engine, _ = talk("one\\", "two", "/exit", "three")
    assert [said(messages)[-1] for messages in engine.asked] == [("user", "one\ntwo")]


@pytest.mark.parametrize(
    ("line", "answer"),
    [("/hlep", "no command /hlep; /help lists them"), ("/save", "needs the name"), ("/help", "/clear")],
)
def test_commands_that_cannot_be_done_say_why(talk, line, answer):
    assert answer in talk(line)[1]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    tiny.save_model(folder / "model")
    (folder / "chat.yaml").write_text(
        f"model_name_or_path: {folder / 'model'}\ntemplate: chatml\ndo_sample: false\nmax_new_tokens: 8\n"
    )
    return str(folder / "chat.yaml")


def tk(*arguments, stdin=""):
    command = [str(Path(sys.executable).with_name("tk")), "chat", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=environment, timeout=200, check=False
    )


def test_one_prompt_prints_one_reply_on_standard_output(config):
    done = tk(config, "--prompt", "Hi", "--max_new_tokens", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.count("\n") >= 1


def test_a_piped_conversation_ends_with_its_input(config):
    done = tk(config, stdin="Hi\n/history\n")
    assert done.returncode == 0, done.stderr
    assert "user: Hi" in done.stdout
    assert ">>>" not in done.stdout


def test_a_mistyped_override_is_an_error_before_anything_is_loaded(config):
    done = tk(config, "--prompt", "Hi", "--temprature", "0.2")
    assert done.returncode == 2
    assert "temperature" in done.stderr

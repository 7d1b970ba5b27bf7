"""The conversation behind `tk chat`: streaming replies, slash commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Engine, Sampling
from tkernel_plugins.commands.chat_lines import Lines, readable

HELP = """\
/clear         forget the conversation
/system TEXT   set the system prompt and forget the conversation; without TEXT, take it away
/tools FILE    offer the tools in FILE, a JSON list in OpenAI's format; without FILE, none
/tool TEXT     answer a call of a tool with TEXT
/history       show the conversation
/save FILE     write the conversation to FILE, in OpenAI's format
/exit          end (so does Ctrl-D)
Ctrl-C stops a reply. A line that ends with a backslash goes on in the next one."""


def answer(
    engine: Engine, prompt: str, system: str | None = None, tools: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Stream the reply to one prompt to standard output."""
    head = (Message("system", readable(system)),) if system else ()
    _stream(engine, Conversation((*head, Message("user", readable(prompt))), tuple(tools)))


def read_tools(file: str | Path) -> tuple[Mapping[str, Any], ...]:
    """The tools in a JSON file: a list in OpenAI's format, or of the functions alone.

    Raises:
        DataError: the file cannot be read, or is no such list.
    """
    try:
        given = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    tools = given if isinstance(given, list) else [given]
    functions = [tool.get("function", tool) if isinstance(tool, dict) else None for tool in tools]
    if not all(isinstance(f, dict) and isinstance(f.get("name"), str) for f in functions):
        raise DataError(f"{file} is no list of tools: each one has a name, a description and parameters")
    return tuple({"type": "function", "function": function} for function in functions)


class Chat:
    """A conversation that grows with every line read from standard input.

    Works with a terminal (line editing, a prompt) and with a pipe (one message a line, no prompt).
    """

    def __init__(
        self, engine: Engine, system: str | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.engine = engine
        # With the template at hand, thoughts and tool calls go into the history as what they are.
        renderer = getattr(engine, "renderer", None)
        self.parse = renderer.parse_reply if renderer is not None else partial(Message, "assistant")
        self.system = system and readable(system)
        self.tools = tuple(tools)
        self.messages: list[Message] = []

    def loop(self) -> None:
        """Read and answer until `/exit` or the end of input."""
        lines = Lines()
        while (line := lines.read()) is not None:
            if line.startswith("/"):
                if self.command(line) == "exit":
                    return
            elif line:
                self.say(Message("user", line))

    def say(self, message: Message) -> None:
        """Answer a message. A reply that Ctrl-C stopped stays in the conversation as far as it got."""
        asked = [*self.messages, message]
        try:
            reply = _stream(self.engine, self._conversation(asked))
        except DataError as error:
            print(f"tk: {error}", file=sys.stderr)
            return
        if reply:
            self.messages = [*asked, self.parse(reply)]

    def command(self, line: str) -> str | None:
        """Do what a line that begins with a slash says; `exit` if it asks to end."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        match name:
            case "exit" | "quit":
                return "exit"
            case "clear":
                self.messages = []
                print("the conversation is forgotten")
            case "system":
                self.system, self.messages = rest or None, []
                print(f"system prompt: {rest}" if rest else "no system prompt")
            case "tools":
                self._offer(rest)
            case "tool" if not (self.messages and self.messages[-1].tool_calls):
                print("no tool was called")
            case "tool":
                self.say(Message("tool", rest))
            case "history":
                for message in self._conversation(self.messages).messages:
                    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
                    print(f"{message.role}: {' '.join(filter(None, (message.content, *calls)))}")
            case "save":
                self._save(rest)
            case "help":
                print(HELP)
            case _:
                print(f"there is no command /{name}; /help lists them")
        return None

    def _save(self, file: str) -> None:
        if not file:
            print("/save needs the name of a file")
            return
        messages = [_as_openai(message) for message in self._conversation(self.messages).messages]
        row = {"messages": messages, **({"tools": list(self.tools)} if self.tools else {})}
        try:
            text = json.dumps(row, ensure_ascii=False) + "\n"
            Path(file).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"cannot write {file}: {error.strerror}")
            return
        print(f"saved {len(messages)} messages in {file}")

    def _offer(self, file: str) -> None:
        try:
            self.tools = read_tools(file) if file else ()
        except DataError as error:
            print(error)
            return
        names = ", ".join(tool["function"]["name"] for tool in self.tools)
        print(f"tools: {names}" if names else "no tools")

    def _conversation(self, messages: list[Message]) -> Conversation:
        head = (Message("system", self.system),) if self.system else ()
        return Conversation((*head, *messages), self.tools)


def _as_openai(message: Message) -> dict[str, Any]:
    """A message as OpenAI's protocol, and dataset files, write it."""
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        made["reasoning_content"] = message.reasoning
    if message.tool_calls:
        made["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return made


def _stream(engine: Engine, conversation: Conversation) -> str:
    """Print the reply piece by piece and return it; Ctrl-C ends it early."""
    pieces: list[str] = []
    with closing(engine.stream([conversation], _sampling(engine, conversation))) as deltas:
        try:
            for delta in deltas:
                pieces.append(delta.text)
                print(delta.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
    print(flush=True)
    return "".join(pieces)


def _sampling(engine: Engine, conversation: Conversation) -> Sampling | None:
    """The options of the run; with tools special tokens are shown, for calls may be written with them."""
    options = getattr(engine, "options", None)
    if not conversation.tools or not isinstance(options, Sampling):
        return None
    given = {field.name: getattr(options, field.name) for field in fields(Sampling)}
    return Sampling(**{**given, "skip_special_tokens": False})

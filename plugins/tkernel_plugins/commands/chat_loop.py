"""The conversation behind `tk chat`: reading lines, streaming replies, slash commands."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message, message_to_dict
from tkernel.types.engine import Engine

HELP = """\
/clear         forget the conversation
/system TEXT   set the system prompt and forget the conversation; without TEXT, take it away
/history       show the conversation
/save FILE     write the conversation to FILE, in OpenAI's format
/exit          end (so does Ctrl-D)
Ctrl-C stops a reply. A line that ends with a backslash goes on in the next one."""


def answer(engine: Engine, prompt: str, system: str | None = None) -> None:
    """Stream the reply to one prompt to standard output."""
    head = (Message("system", readable(system)),) if system else ()
    _stream(engine, Conversation((*head, Message("user", readable(prompt)))))


def readable(text: str) -> str:
    """`text` of a terminal or pipe, with a replacement character for each byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Chat:
    """A conversation that grows with every line read from standard input.

    Works with a terminal (line editing, a prompt) and with a pipe (one message a line, no prompt).
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        self.engine = engine
        # With the template at hand, thoughts and tool calls go into the history as what they are.
        renderer = getattr(engine, "renderer", None)
        self.parse = renderer.parse_reply if renderer is not None else partial(Message, "assistant")
        self.system = system and readable(system)
        self.messages: list[Message] = []
        self.interactive = sys.stdin.isatty()

    def loop(self) -> None:
        """Read and answer until `/exit` or the end of input."""
        if self.interactive:
            _edit_lines()
            print("/help lists the commands, Ctrl-D ends")
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                print()  # a line that was being typed is dropped
                continue
            except EOFError:
                if self.interactive:
                    print()
                return
            if line.startswith("/"):
                if self.command(line) == "exit":
                    return
            elif line:
                self.say(line)

    def say(self, text: str) -> None:
        """Answer `text`. A reply that Ctrl-C stopped stays in the conversation as far as it got."""
        asked = [*self.messages, Message("user", text)]
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
            case "history":
                for message in self._conversation(self.messages).messages:
                    print(f"{message.role}: {message.content}")
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
        messages = [
            {key: value for key, value in message_to_dict(message).items() if key in ("role", "content")}
            for message in self._conversation(self.messages).messages
        ]
        try:
            text = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
            Path(file).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"cannot write {file}: {error.strerror}")
            return
        print(f"saved {len(messages)} messages in {file}")

    def _conversation(self, messages: list[Message]) -> Conversation:
        head = (Message("system", self.system),) if self.system else ()
        return Conversation((*head, *messages))

    def _read(self) -> str:
        """One message: lines that end with a backslash are joined with the next."""
        lines = []
        while True:
            prompt = ("... " if lines else ">>> ") if self.interactive else ""
            line = readable(input(prompt))
            if not line.endswith("\\"):
                return "\n".join([*lines, line]).strip()
            lines.append(line[:-1])


def _stream(engine: Engine, conversation: Conversation) -> str:
    """Print the reply piece by piece and return it; Ctrl-C ends it early."""
    pieces: list[str] = []
    with closing(engine.stream([conversation])) as deltas:
        try:
            for delta in deltas:
                pieces.append(delta.text)
                print(delta.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
    print(flush=True)
    return "".join(pieces)


def _edit_lines() -> None:
    """Arrow keys and history within this session, where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return

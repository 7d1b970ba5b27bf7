"""`tk chat` with a reward model: a message, then replies to it, each of which gets its score."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel_plugins.commands.chat_lines import Lines, readable

HELP = """\
The first line is a message, each line after it a reply to it, whose score is printed.
/next          keep the last reply, and go on with the next message
/clear         forget the conversation
/system TEXT   set the system prompt and forget the conversation; without TEXT, take it away
/exit          end (so does Ctrl-D)"""


class Scores:
    """A conversation whose replies are typed and scored.

    Args:
        score: the reward of conversations that end with a reply, as an engine's `score`.
        asked: the first message, so that every line is a reply to it; None reads it.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Conversation]], list[float]],
        system: str | None = None,
        asked: str | None = None,
    ) -> None:
        self.score = score
        self.system = system and readable(system)
        self.messages = [Message("user", readable(asked))] if asked is not None else []
        self.last: Message | None = None

    def loop(self) -> None:
        """Read and score until `/exit` or the end of input."""
        lines = Lines()
        while True:
            line = lines.read("reply> " if self._is_asked else "message> ")
            if line is None or line.split(" ")[0] in ("/exit", "/quit"):
                return
            if line.startswith("/"):
                self.command(line)
            elif line and not self._is_asked:
                self.messages.append(Message("user", line))
            elif line:
                self.say(line)

    def say(self, reply: str) -> None:
        """Print the score of a reply to what was asked."""
        self.last = Message("assistant", reply)
        head = (Message("system", self.system),) if self.system else ()
        try:
            (score,) = self.score([Conversation((*head, *self.messages, self.last))])
        except DataError as error:
            print(f"tk: {error}", file=sys.stderr)
            return
        print(f"{score:.4f}", flush=True)

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says."""
        name, _, rest = line[1:].partition(" ")
        match name:
            case "next" if self.last is not None:
                self.messages.append(self.last)
            case "next":
                print("there is no reply yet")
            case "clear":
                self.messages = []
                print("the conversation is forgotten")
            case "system":
                self.system, self.messages = rest.strip() or None, []
                print(f"system prompt: {self.system}" if self.system else "no system prompt")
            case "help":
                print(HELP)
            case _:
                print(f"there is no command /{name}; /help lists them")
        if name in ("next", "clear", "system"):
            self.last = None

    @property
    def _is_asked(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "user"

"""Reading what is typed in `tk chat`, at a terminal or from a pipe."""

from __future__ import annotations

import sys


def readable(text: str) -> str:
    """`text` of a terminal or pipe, with a replacement character for each byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Lines:
    """Messages typed on standard input. A terminal gets a prompt and line editing, a pipe neither."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        if self.interactive:
            _edit_lines()
            print("/help lists the commands, Ctrl-D ends")

    def read(self, prompt: str = ">>> ") -> str | None:
        """The next message; None at the end. A line that ends with a backslash goes on in the next one.

        Ctrl-C drops what was being typed.
        """
        while True:
            try:
                return self._message(prompt)
            except KeyboardInterrupt:
                print()
            except EOFError:
                if self.interactive:
                    print()
                return None

    def _message(self, prompt: str) -> str:
        lines: list[str] = []
        while True:
            shown = ("... " if lines else prompt) if self.interactive else ""
            try:
                line = readable(input(shown))
            except EOFError:
                if not lines:
                    raise
                return "\n".join(lines).strip()  # a pipe that ends with a backslash
            if not line.endswith("\\"):
                return "\n".join([*lines, line]).strip()
            lines.append(line[:-1])


def _edit_lines() -> None:
    """Arrow keys and history within this session, where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return

"""Pages of the documentation as blocks, and the commands in them run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tkernel.cli.app import app, guarded

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
os.environ["COLUMNS"] = "100"  # what a reader's terminal may have; what is drawn depends on it

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIABLE = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block. The words after its language: `title=FILE`, `exit=N`, `slow`, `run`, `wrong`."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def title(self) -> str | None:
        """The file that the block shows."""
        return self._value("title")

    @property
    def exit_code(self) -> int:
        """What the last command of the block exits with."""
        return int(self._value("exit") or 0)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def _value(self, name: str) -> str | None:
        return next((w.partition("=")[2] for w in self.words if w.startswith(f"{name}=")), None)


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what the page shows of its output."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    output: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, language, tuple(words), match["text"])


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a console block: lines after `$ `, with the output below each."""
    text = block.text.replace("\\\n", " ")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        words = shlex.split(line, comments=True)
        variables = [word for word in words if _VARIABLE.fullmatch(word)]
        environment = dict(word.split("=", 1) for word in variables)
        yield Command(tuple(words[len(variables) :]), environment, output.rstrip())


def run(command: Command, folder: Path) -> tuple[int, str]:
    """Exit code and output of a `tk` command in `folder`, in this process."""
    assert command.words[0] == "tk", f"only tk is run in a console block, not {command.words[0]}"
    output = io.StringIO()
    before = dict(os.environ)
    os.environ.update(command.environment)
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            try:
                code = guarded(lambda: app(list(command.words[1:]), prog_name="tk"))
            except SystemExit as ended:
                code = int(ended.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return code, output.getvalue()


def missing_lines(shown: str, output: str) -> str | None:
    """The first stretch of `shown` (a line `...` stands for any lines) that `output` lacks, in order."""
    rest = "\n" + "\n".join(line.rstrip() for line in output.splitlines()) + "\n"
    for stretch in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE):
        wanted = "\n".join(line.rstrip() for line in stretch.strip("\n").splitlines())
        if wanted:
            position = rest.find(f"\n{wanted}\n")
            if position < 0:
                return wanted
            rest = rest[position + len(wanted) + 1 :]
    return None


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[str]:
    """Targets of the links of a page that lead to files of the repository."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t and not t.startswith("mailto:")]

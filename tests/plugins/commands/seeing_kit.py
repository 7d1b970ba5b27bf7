"""A folder with a model without weights, rows of every kind, and runs of them for `tk data view|stats|prepare`."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tkernel.cli.app import app, guarded
from tkernel.pipeline import open_session
from tkernel.testing import tiny
from tkernel_plugins.commands.data_run import FOR_DATA, DataRun, prepared_run

STAGE = '''
from dataclasses import dataclass
from tkernel import StageResult, hookimpl
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.training.options import TrainingOptions


@dataclass(frozen=True)
class Options(PrepareOptions, TrainingOptions):
    """Options."""


class Stage:
    name, rows, Options = "{name}", "{rows}", Options
    training_arguments = "transformers.training_args:TrainingArguments"

    @hookimpl
    def train_stage(self, request) -> StageResult:
        raise AssertionError("looking at data trains nothing")


STAGE = Stage()
'''

PAIRS = [
    {"instruction": "Say hi", "input": "", "chosen": "Hello there!", "rejected": "No."},
    {"instruction": "And bye?", "input": "", "chosen": "Bye.", "rejected": "I will not say that."},
]
FEEDBACK = [
    {"instruction": "One?", "output": "Yes, one.", "liked": True},
    {"instruction": "Two?", "output": "Never.", "liked": False},
    {"instruction": "Three?", "output": "Three it is.", "liked": True},
]
LINES = [{"instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(1, 9)]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!", "train": False},
            {"role": "user", "content": "你好 \x1b[31m\u202e"},
            {"role": "assistant", "content": "好 <b>&amp;</b>", "weight": 0.5},
        ]
    }
]
TEXTS = [{"text": "The end of the world. " * 3}, {"text": "Another one."}, {"text": "And the last."}]
INFO: dict[str, Any] = {
    "lines": {"file_name": "lines.jsonl"},
    "chats": {"file_name": "chats.jsonl", "formatting": "openai", "columns": {"messages": "messages"}},
    "pairs": {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
    },
    "feedback": {
        "file_name": "feedback.jsonl",
        "columns": {"prompt": "instruction", "response": "output", "kto_tag": "liked"},
    },
    "texts": {"file_name": "texts.jsonl", "formatting": "text"},
}
ROWS = {"lines": LINES, "chats": CHATS, "pairs": PAIRS, "feedback": FEEDBACK, "texts": TEXTS}
KINDS = {"preference": "pairs", "feedback": "feedback", "prompt": "lines", "text": "texts"}
"""Kind of rows -> the dataset that has such."""


def make_folder(folder: Path) -> Path:
    """Write everything into `folder`; the model has no weights."""
    tiny.save_model(folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    data = folder / "data"
    data.mkdir()
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps(INFO))
    for kind in KINDS:
        (folder / f"{kind}.py").write_text(STAGE.format(name=f"see_{kind}", rows=kind))
    (folder / "run.yaml").write_text("model_name_or_path: model\ndataset: lines\noutput_dir: out\n")
    return folder


def of_kind(kind: str) -> list[str]:
    """The words that make `run.yaml` a run of another kind of rows."""
    if kind == "supervised":
        return []
    return ["--plugin", f"./{kind}.py", f"stage=see_{kind}", f"dataset={KINDS[kind]}"]


def tk(folder: Path, *words: str | int, code: int = 0) -> str:
    """What `tk data WORDS` prints in `folder`, in this process; of a failure what it prints as an error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = guarded(lambda: app(["data", *map(str, words)], prog_name="tk"))
        except SystemExit as ended:
            found = int(ended.code or 0)
    assert found == code, f"{found}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue() if code == 0 else err.getvalue()


def process(folder: Path, *words: str | int, **environ: str) -> subprocess.CompletedProcess[str]:
    """`tk data WORDS` in a process of its own."""
    import os

    command = [sys.executable, "-m", "tkernel", "data", *map(str, words)]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", **environ}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=250)


def prepared(folder: Path, *overrides: str, plugins: tuple[str, ...] = ()) -> DataRun:
    """The same data as a stage gets it."""
    with contextlib.chdir(folder):
        session = open_session("run.yaml", overrides=overrides, plugins=plugins, needs=FOR_DATA)
        return prepared_run(session, "run.yaml")


def prepared_kind(folder: Path, kind: str, *overrides: str) -> DataRun:
    """The data of `of_kind(kind)`."""
    words = of_kind(kind)
    given = [*words[2:], *overrides]
    return prepared(folder, *given, plugins=tuple(words[1:2]))


class Page(HTMLParser):
    """Collects tags, attributes and the text of token boxes."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.tokens: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)
        title = dict(attrs).get("title")
        if tag == "span" and title:
            self.tokens.append((title, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "span" and self.tokens:
            title, text = self.tokens[-1]
            self.tokens[-1] = (title, text + data)

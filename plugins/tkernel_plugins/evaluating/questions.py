"""Multiple-choice questions in the layouts of MMLU, C-Eval and CMMLU.

`FOLDER/mapping.json` maps a subject to its name and category. The questions are CSV files in `FOLDER` or in a ZIP file
there: `test/SUBJECT_test.csv`, `val/SUBJECT_val.csv`, `dev/SUBJECT_dev.csv`, perhaps below `data/`, or `test/SUBJECT.csv`.
MMLU's have no header and the columns question, A, B, C, D, answer; the others name these columns.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tkernel.config.suggest import did_you_mean
from tkernel.errors import DataError, TkError

LETTERS = ("A", "B", "C", "D")
SPLITS: Mapping[str, str] = {"test": "test", "validation": "val", "train": "dev"}
"""The split in a task's name -> the folder of its files."""


@dataclass(frozen=True)
class Question:
    """A question, its choices by letter, and the letter of the right one; empty where it is kept secret."""

    text: str
    choices: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class Subject:
    """The questions of one subject, and answered ones to show before them."""

    key: str
    name: str
    category: str
    questions: Sequence[Question]
    examples: Sequence[Question]


def folder_of(task: str, task_dir: str) -> tuple[Path, str] | None:
    """The folder and the split that a task names; None if there is no such folder."""
    name, _, split = task.rpartition("_")
    folder = Path(task_dir).expanduser() / name
    return (folder, split) if name and (folder / "mapping.json").is_file() else None


def read_subjects(folder: Path, split: str) -> list[Subject]:
    """All subjects of a folder.

    Raises:
        TkError: a split that is none, no subjects, a subject without its file.
        DataError: a row that is no question, with its place.
    """
    if split not in SPLITS:
        raise TkError(
            f"the task names the split {split!r}; there are {', '.join(SPLITS)}",
            hint=did_you_mean(split, SPLITS),
        )
    try:
        mapping = json.loads((folder / "mapping.json").read_text(encoding="utf-8"))
        entries = [(key, str(entry["name"]), str(entry["category"])) for key, entry in mapping.items()]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise TkError(f"{folder}/mapping.json is not a mapping of subjects: {error!r}") from error
    if not entries:
        raise TkError(f"{folder}/mapping.json names no subject")
    read = _reader(folder)
    subjects = []
    for key, name, category in entries:
        asked = _questions(read, key, SPLITS[split])
        if asked is None:
            raise TkError(
                f"{folder} has no questions of {key} for {split}",
                hint=f"Looked for {SPLITS[split]}/{key}_{SPLITS[split]}.csv in it, and in its ZIP files.",
            )
        shown = _questions(read, key, SPLITS["train"]) or []
        subjects.append(Subject(key, name, category, asked, [each for each in shown if each.answer]))
    return subjects


def _reader(folder: Path) -> Callable[[str], tuple[str, bytes] | None]:
    """The function from a path in the folder, or in a ZIP file of it, to where it was found and its content."""
    packed = {
        name: path for path in sorted(folder.glob("*.zip")) for name in zipfile.ZipFile(path).namelist()
    }

    def read(name: str) -> tuple[str, bytes] | None:
        for candidate in (name, f"data/{name}"):
            if (folder / candidate).is_file():
                return str(folder / candidate), (folder / candidate).read_bytes()
            if candidate in packed:
                with zipfile.ZipFile(packed[candidate]) as file:
                    return f"{packed[candidate]}:{candidate}", file.read(candidate)
        return None

    return read


def _questions(
    read: Callable[[str], tuple[str, bytes] | None], subject: str, split: str
) -> list[Question] | None:
    found = read(f"{split}/{subject}_{split}.csv") or read(f"{split}/{subject}.csv")
    if found is None:
        return None
    place, content = found
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"))))
    names = [name.strip().lower() for name in rows[0]] if rows else []
    has_header = "question" in names and "a" in names
    columns = names if has_header else ["question", *map(str.lower, LETTERS), "answer"]
    first = 1 if has_header else 0
    return [
        _question(row, columns, f"{place}:{number}")
        for number, row in enumerate(rows[first:], start=first + 1)
        if row
    ]


def _question(row: Sequence[str], columns: Sequence[str], place: str) -> Question:
    if len(row) != len(columns):
        raise DataError(f"{place}: a row of {len(row)} cells, where {len(columns)} are expected")
    cells = dict(zip(columns, row, strict=True))
    choices = {letter: cells[letter.lower()] for letter in LETTERS if letter.lower() in cells}
    answer = cells.get("answer", "").strip().upper()
    if answer and answer not in choices:
        raise DataError(f"{place}: the answer {answer!r} is none of {', '.join(choices)}")
    return Question(cells["question"], choices, answer)

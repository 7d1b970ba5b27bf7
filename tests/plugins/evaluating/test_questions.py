"""Multiple-choice questions are read in every layout, and what is wrong has its place."""

from __future__ import annotations

import json
import zipfile

import pytest

from tkernel.errors import DataError, TkError
from tkernel_plugins.evaluating.questions import folder_of, read_subjects

MAPPING = {"law": {"name": "law of the sea", "category": "Humanities"}}
MMLU = {
    "test/law_test.csv": '"Who, if anyone?",me,you,both,none,B\nWhat?,1,2,3,4,D\n',
    "dev/law_dev.csv": "Shown?,a,b,c,d,A\n",
}
CEVAL = {
    "val/law_val.csv": "id,question,A,B,C,D,answer\n0,Who?,me,you,both,none,C\n",
    "test/law_test.csv": "id,question,A,B,C,D\n0,Who?,me,you,both,none\n",
    "dev/law_dev.csv": "id,question,A,B,C,D,answer,explanation\n0,Shown?,a,b,c,d,B,since\n",
}
CMMLU = {
    "test/law.csv": ",Question,A,B,C,D,Answer\n0,谁？,我,你,都,无,A\n",
    "dev/law.csv": ",Question,A,B,C,D,Answer\n0,Shown?,a,b,c,d,D\n",
}


def layout(folder, files, *, packed=False, below=""):
    folder.mkdir(parents=True)
    (folder / "mapping.json").write_text(json.dumps(MAPPING))
    if packed:
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(below + name, text)
        return folder
    for name, text in files.items():
        (folder / below / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / below / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("packed", "below"), [(False, ""), (True, "data/"), (True, ""), (False, "data/")])
@pytest.mark.parametrize(
    ("files", "split", "first", "shown"),
    [
        (MMLU, "test", ("Who, if anyone?", "B"), ("Shown?", "A")),
        (CEVAL, "validation", ("Who?", "C"), ("Shown?", "B")),
        (CEVAL, "test", ("Who?", ""), ("Shown?", "B")),
        (CMMLU, "test", ("谁？", "A"), ("Shown?", "D")),
    ],
    ids=["mmlu", "ceval", "ceval with secret answers", "cmmlu"],
)
def test_a_layout_is_read_as_files_and_packed(tmp_path, files, split, first, shown, packed, below):
    (subject,) = read_subjects(layout(tmp_path / "it", files, packed=packed, below=below), split)
    assert (subject.key, subject.name, subject.category) == ("law", "law of the sea", "Humanities")
    question, example = subject.questions[0], subject.examples[0]
    assert (question.text, question.answer) == first
    assert (example.text, example.answer) == shown
    assert list(question.choices) == ["A", "B", "C", "D"]


def test_a_task_names_a_folder_and_a_split(tmp_path):
    folder = layout(tmp_path / "my_law", MMLU)
    assert folder_of("my_law_test", str(tmp_path)) == (folder, "test")
    assert folder_of("arc_easy", str(tmp_path)) is None
    assert folder_of("hellaswag", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (MMLU, "tset", "the task names the split 'tset'; there are test, validation, train"),
        (MMLU, "validation", "has no questions of law for validation"),
        (
            {"test/law_test.csv": "Who?,a,b,c,d\n"},
            "test",
            "law_test.csv:1: a row of 5 cells, where 6 are expected",
        ),
        (
            {"test/law_test.csv": "Who?,a,b,c,d,A\nWho?,a,b,c,d,E\n"},
            "test",
            "csv:2: the answer 'E' is none of A, B",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, files, split, message):
    with pytest.raises((TkError, DataError), match=message.replace(".", r"\.")):
        read_subjects(layout(tmp_path / "it", files), split)


def test_a_mapping_that_is_none_is_an_error(tmp_path):
    folder = layout(tmp_path / "it", MMLU)
    (folder / "mapping.json").write_text("[1]")
    with pytest.raises(TkError, match="not a mapping of subjects"):
        read_subjects(folder, "test")


def test_an_empty_file_has_no_questions(tmp_path):
    (subject,) = read_subjects(layout(tmp_path / "it", {"test/law_test.csv": ""}), "test")
    assert subject.questions == []

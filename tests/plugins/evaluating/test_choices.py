"""The letter that is chosen is the one that the model ranks first, however questions are batched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from tkernel.testing import tiny
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.evaluating.choices import WORDS, Answers, answer, conversation
from tkernel_plugins.evaluating.questions import LETTERS, Question, Subject

CHOICES = {"A": "one", "B": "two", "C": "three", "D": "four"}
EXAMPLES = [Question(f"Shown {n}?", CHOICES, LETTERS[n % 4]) for n in range(5)]
LAW = Subject(
    "law", "law", "Humanities", [Question(f"Is it {'so ' * n}?", CHOICES, "A") for n in range(7)], EXAMPLES
)
ART = Subject("art", "art", "Other", [Question("Why?", CHOICES, "C")], [])


@pytest.fixture(scope="module")
def model():
    bundle = tiny.make_bundle("llama", max_position_embeddings=2048)
    (entry,) = entry_points(group="tkernel.template", name="chatml")
    return bundle.replace(module=bundle.module.eval()), entry.load().render_template(
        TemplateRequest("chatml", bundle.tokenizer)
    )


def test_examples_are_earlier_turns_and_the_head_stands_before_the_first():
    made = conversation(LAW, LAW.questions[0], 2, WORDS["en"])
    assert [message.role for message in made.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert made.messages[0].content == (
        "The following are multiple choice questions (with answers) about law.\n\n"
        "Shown 0?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    )
    assert made.messages[3].content == "B"
    assert made.messages[-1].content == "Is it ?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    alone = conversation(ART, ART.questions[0], 5, WORDS["zh"])
    assert alone.messages[0].content.startswith(
        "以下是中国关于art考试的单项选择题，请选出其中的正确答案。\n\nWhy?"
    )
    assert alone.messages[0].content.endswith("\n答案：")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_choices_do_not_depend_on_the_batch(model, batch_size):
    bundle, renderer = model
    letters = [bundle.tokenizer.encode(letter)[-1] for letter in LETTERS]
    expected = []
    for question in LAW.questions:
        ids = renderer.prompt_ids(conversation(LAW, question, 2, WORDS["en"]))
        with torch.no_grad():
            logits = bundle.module(input_ids=torch.tensor([ids])).logits[0, -1, letters]
        expected.append(LETTERS[int(logits.argmax())])
    found = answer(bundle, renderer, [LAW], n_shot=2, batch_size=batch_size)
    assert found.chosen == {"law": expected}


def test_a_question_with_fewer_choices_is_answered_with_one_of_them(model):
    few = [Question(f"{n}?", {"A": "yes", "B": "no"}, "A") for n in range(6)]
    found = answer(*model, [Subject("few", "few", "Other", few, [])])
    assert set(found.chosen["few"]) <= {"A", "B"}


def test_examples_are_left_out_where_the_model_reads_no_more(model):
    _, renderer = model
    short = tiny.make_bundle("llama", max_position_embeddings=200)
    found = answer(short.replace(module=short.module.eval()), renderer, [LAW], n_shot=5)
    assert found.fewer_shots == 7
    assert len(found.chosen["law"]) == 7


def test_scores_are_those_of_the_questions_with_a_known_answer():
    answers = Answers()
    answers.add(
        Subject("a", "a", "STEM", [Question("?", CHOICES, x) for x in ("A", "B", "")], []), ["A", "A", "A"]
    )
    answers.add(Subject("b", "b", "Other", [Question("?", CHOICES, "D")], []), ["D"])
    assert [line.strip() for line in answers.lines()] == ["STEM: 50.00", "Other: 100.00", "Average: 66.67"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("eval")
    tiny.save_model(made / "model", max_position_embeddings=2048)
    tasks = made / "tasks" / "mmlu"
    (tasks / "test").mkdir(parents=True)
    (tasks / "mapping.json").write_text(json.dumps({"law": {"name": "law", "category": "Humanities"}}))
    (tasks / "test" / "law_test.csv").write_text("Who?,a,b,c,d,A\nWhat?,a,b,c,d,B\nWhy?,a,b,c,d,C\n")
    rows = [{"question": f"{n} is", "choices": ["odd", "even"], "answer": n % 2} for n in range(6)]
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "tasks" / "parity.yaml").write_text(
        "task: tiny_parity\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {made / 'rows.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (made / "eval.yaml").write_text(
        f"model_name_or_path: {made / 'model'}\ntemplate: chatml\ntask: mmlu_test\ntask_dir: {made / 'tasks'}\n"
        f"lang: en\nn_shot: 0\nbatch_size: 2\nsave_dir: {made / 'saved'}\n"
    )
    return made


def tk(*words: str):
    command = [str(Path(sys.executable).with_name("tk")), "eval", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_a_file_of_llamafactory_is_evaluated_and_its_answers_are_saved_once(folder):
    done = tk(str(folder / "eval.yaml"))
    assert done.returncode == 0, done.stderr
    assert "Humanities:" in done.stdout
    assert "Average:" in done.stdout
    saved = json.loads((folder / "saved" / "results.json").read_text())
    assert set(saved["law"]) == {"0", "1", "2"}
    assert "Average" in (folder / "saved" / "results.log").read_text()
    again = tk(str(folder / "eval.yaml"))
    assert again.returncode == 1
    assert "holds the results of an evaluation" in again.stderr


def test_lm_eval_s_tasks_are_found_in_task_dir_and_scored(folder):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    save = folder / "parity"
    done = tk(str(folder / "eval.yaml"), "task=tiny_parity", f"save_dir={save}")
    assert done.returncode == 0, done.stderr
    assert "tiny_parity  acc (none): " in done.stdout
    results = json.loads((save / "results.json").read_text())["results"]["tiny_parity"]
    assert 0 <= results["acc,none"] <= 1


@pytest.mark.slow
def test_a_task_that_nobody_has_is_an_error(folder):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    done = tk(str(folder / "eval.yaml"), "task=tiny_parrity", f"save_dir={folder / 'none'}")
    assert done.returncode == 1
    assert "no task 'tiny_parrity'" in done.stderr
    assert "tiny_parity" in done.stderr.partition("no task")[2]


def test_without_a_task_there_is_nothing_to_do(folder):
    done = tk(f"model_name_or_path={folder / 'model'}")
    assert done.returncode == 2
    assert "task is not set" in done.stderr

"""`tk chat` with a reward model: the scores are those of training, whatever the head and the form it is saved in."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tkernel
from tkernel.errors import TkError
from tkernel.pipeline import open_engine, open_session
from tkernel.testing import tiny
from tkernel_plugins.commands.chat_scores import Scores

PAIRS = [{"prompt": "Say hi", "chosen": "hi there", "rejected": "no"}] * 4


@pytest.fixture
def score(capsys):
    """Lines typed into a chat whose replies score their length -> the conversations and what was printed."""

    def run(*lines, **options):
        asked = []

        def length(conversations):
            asked.extend(conversations)
            return [float(len(c.messages[-1].content)) for c in conversations]

        stdin, sys.stdin = sys.stdin, io.StringIO("\n".join(lines) + "\n")
        try:
            Scores(length, **options).loop()
        finally:
            sys.stdin = stdin
        said = [[(message.role, message.content) for message in c.messages] for c in asked]
        return said, capsys.readouterr().out

    return run


def test_each_line_after_the_message_is_a_reply_to_it(score):
    said, printed = score("Hi", "one", "three")
    assert said == [[("user", "Hi"), ("assistant", "one")], [("user", "Hi"), ("assistant", "three")]]
    assert printed.split() == ["3.0000", "5.0000"]


def test_next_keeps_the_last_reply_and_clear_forgets_all(score):
    said, printed = score("/next", "a", "b", "/next", "c", "d", "/clear", "e", "f", system="S")
    assert "there is no reply yet" in printed
    assert said[1] == [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert said[2] == [("system", "S"), ("user", "e"), ("assistant", "f")]


def test_a_prompt_makes_every_line_a_reply(score):
    assert [c[-1] for c in score("x", "y", asked="Hi")[0]] == [("assistant", "x"), ("assistant", "y")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    tiny.save_model(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return folder


@pytest.mark.parametrize("head", ["value", "classification"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_scores_are_those_of_the_run_that_trained_it(folder, head, method):
    out = folder / f"{head}-{method}"
    settings = {"model_name_or_path": str(folder / "model"), "stage": "rm", "template": "chatml"}
    data = {name: str(folder / "pairs.jsonl") for name in ("dataset", "eval_dataset")}
    tkernel.run(
        {**settings, **data, "reward_head": head, "finetuning_type": method, "output_dir": str(out)}
        | {"do_train": True, "do_predict": True, "max_steps": 2, "learning_rate": 0.01}
    )
    trained = json.loads((out / "generated_predictions.jsonl").read_text().splitlines()[0])
    where = {"adapter_name_or_path": str(out)} if method == "lora" else {"model_name_or_path": str(out)}
    command = [str(Path(sys.executable).with_name("tk")), "chat", "--prompt", PAIRS[0]["prompt"]]
    command += [f"{key}={value}" for key, value in {**settings, **where}.items()]
    done = subprocess.run(
        command,
        input="hi there\nno\n",
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [float(line) for line in done.stdout.split()]
    assert found == pytest.approx([trained["chosen"], trained["rejected"]], abs=2e-4)


def test_a_model_for_classification_does_not_talk(folder):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    model.save_pretrained(folder / "classifier")
    tiny.make_tokenizer().save_pretrained(folder / "classifier")
    with pytest.raises(TkError, match="stage: rm"):
        open_engine(open_session({"model_name_or_path": str(folder / "classifier")}))

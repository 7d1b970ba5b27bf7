"""`do_predict` with `predict_with_generate`: the model's replies beside those of the data, and how alike they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tkernel
from tkernel.errors import TkError
from tkernel.pipeline import open_engine, open_session
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message
from tkernel_plugins.training import prediction
from tkernel_plugins.training.similarity import similarity

pytest.importorskip("rouge_chinese")
ROWS = [{"instruction": f"How much is {n} and 1?", "output": f"It is {n + 1} 好的"} for n in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("predictions")
    tiny.save_model(made / "model")
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return made


def config(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    settings = {
        "model_name_or_path": str(folder / "model"),
        "eval_dataset": str(folder / "rows.jsonl"),
        "template": "chatml",
        "finetuning_type": "lora",
        "do_predict": True,
        "predict_with_generate": True,
        "do_sample": False,
        "max_new_tokens": 6,
        "per_device_eval_batch_size": 2,
        "output_dir": str(folder / name),
        "use_cpu": True,
    }
    return {**settings, **changes}


def lines(folder: Path, name: str) -> list[dict[str, str]]:
    text = (folder / name / "generated_predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_predictions_alone_are_the_engines_replies_and_train_nothing(folder: Path) -> None:
    result = tkernel.run(config(folder, "alone"))
    said = lines(folder, "alone")
    asked = [Conversation((Message("user", row["instruction"]),)) for row in ROWS]
    session = open_session(
        {
            k: v
            for k, v in config(folder, "x").items()
            if k in ("model_name_or_path", "template", "do_sample", "max_new_tokens")
        }
    )
    engine = open_engine(session)
    assert [line["predict"] for line in said] == [reply.text for reply in engine.reply(asked)]
    assert [line["label"] for line in said] == [row["output"] for row in ROWS]
    assert said[0].keys() == {"prompt", "predict", "label"}
    assert said[0]["prompt"].startswith(
        "<|im_start|>user\nHow much is 0 and 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert result.steps == 0
    files = {path.name for path in (folder / "alone").iterdir()}
    assert not files & {
        "adapter_model.safetensors",
        "generated_predictions.partial.jsonl",
        "eval_results.json",
    }
    stored = json.loads((folder / "alone" / "predict_results.json").read_text())
    for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l"):
        mean = sum(round(similarity(line["predict"], line["label"])[name], 4) for line in said) / len(said)
        assert stored[f"predict_{name}"] == result.metrics[f"predict_{name}"] == pytest.approx(mean, abs=1e-4)
    assert stored["predict_runtime"] > 0


def test_a_run_that_trains_predicts_with_what_it_trained(folder: Path) -> None:
    training = {
        "do_train": True,
        "dataset": str(folder / "rows.jsonl"),
        "max_steps": 2,
        "learning_rate": 0.1,
        "save_strategy": "no",
    }
    result = tkernel.run(config(folder, "trained", **training))
    assert result.steps == 2
    assert {"train_loss", "eval_loss", "predict_bleu-4"} <= result.metrics.keys()
    after = config(folder, "after", adapter_name_or_path=str(folder / "trained"))
    tkernel.run(after)
    assert lines(folder, "after") == lines(folder, "trained")


def test_what_val_size_splits_off_is_predicted(folder: Path) -> None:
    changes = {"eval_dataset": None, "dataset": str(folder / "rows.jsonl"), "val_size": 3}
    settings = {k: v for k, v in config(folder, "split", **changes).items() if v is not None}
    result = tkernel.run(settings)
    said = lines(folder, "split")
    assert len(said) == 3
    assert {line["label"] for line in said} < {row["output"] for row in ROWS}
    assert "predict_rouge-l" in result.metrics


def test_a_prediction_that_was_stopped_goes_on_after_its_last_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tkernel_plugins.engines.huggingface_generation import TransformersEngine

    tkernel.run(config(folder, "whole"))
    calls = []
    reply = TransformersEngine.reply

    def stopped(self: Any, conversations: Any, sampling: Any = None) -> Any:
        calls.append(len(conversations))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return reply(self, conversations, sampling)

    monkeypatch.setattr(TransformersEngine, "reply", stopped)
    with pytest.raises(KeyboardInterrupt):
        tkernel.run(config(folder, "stopped"))
    assert "4 predictions are kept" in capsys.readouterr().out
    assert not (folder / "stopped" / prediction.FILE).exists()
    with (folder / "stopped" / prediction.PARTIAL).open("a") as file:
        file.write('{"prompt": "half a li')
    tkernel.run(config(folder, "stopped", resume_from_checkpoint=True))
    assert calls[3:] == [2, 1]
    assert lines(folder, "stopped") == lines(folder, "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict_with_generate": False}, "none are generated"),
        ({"do_predict": False, "do_train": False}, "it is not set"),
        ({"eval_dataset": None, "dataset": "rows.jsonl"}, "nothing to predict"),
    ],
)
def test_what_cannot_be_predicted_is_told_while_planning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(folder)
    settings = {k: v for k, v in config(folder, "never", **changes).items() if v is not None}
    with pytest.raises(TkError, match=message):
        tkernel.run(settings)


def test_similarity_is_that_of_llama_factory() -> None:
    # Worked out by hand: 3 of 4 words, 2 of 3 pairs, and the longest common subsequence has 3 words.
    alike = similarity("the cat sat here", "the cat sat down")
    assert alike["rouge-1"] == pytest.approx(75)
    assert alike["rouge-2"] == pytest.approx(200 / 3)
    assert alike["rouge-l"] == pytest.approx(75)
    assert similarity("今天天气很好", "今天天气很好") == pytest.approx(
        {"bleu-4": 100, "rouge-1": 100, "rouge-2": 100, "rouge-l": 100}
    )
    assert 0 < similarity("今天天气很好", "今天天气不好")["bleu-4"] < 100
    assert set(similarity("", "something").values()) == {0.0}
    long = "word " * 800
    assert similarity(long, long)["rouge-l"] == pytest.approx(100)

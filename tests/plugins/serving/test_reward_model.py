"""`tk serve` of a reward model, and the error of one that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from serving_kit import Server

from tkernel.testing import tiny
from tkernel_plugins.training import value_head


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    """A tiny model with a value head beside it, as `stage: rm` leaves it."""
    folder = tmp_path_factory.mktemp("reward")
    tiny.save_model(folder / "model")
    module = tiny.make_model()
    value_head.attach(module, seed=1)
    value_head.save(module, folder / "model")
    config = {"model_name_or_path": str(folder / "model"), "stage": "rm", "template": "chatml"}
    (folder / "serve.yaml").write_text(json.dumps(config))
    server = Server(folder / "serve.yaml", "--name", "rm")
    yield server, module
    server.stop()


def test_texts_and_conversations_are_scored_and_chats_are_refused(reward):
    server, module = reward
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    status, _, answer = server.ask("/v1/score/evaluation", {"model": "rm", "messages": ["Hello there", talk]})
    assert status == 200, answer
    made = json.loads(answer)
    ids = tiny.make_tokenizer()("Hello there", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = value_head.last_values(module, {"input_ids": ids})
    assert made["object"] == "score.evaluation"
    assert made["scores"][0] == pytest.approx(float(expected[0]), abs=1e-4)
    assert len(made["scores"]) == 2
    chat = {"model": "rm", "messages": talk[:1]}
    status, _, answer = server.ask("/v1/chat/completions", chat)
    assert (status, "reward model" in json.loads(answer)["error"]["message"]) == (400, True)


def test_a_model_without_a_value_head_is_an_error_before_it_listens(folder):
    command = [
        str(Path(sys.executable).with_name("tk")),
        "serve",
        str(folder / "serve.yaml"),
        "--stage",
        "rm",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "value_head.safetensors" in done.stderr


def test_other_models_score_nothing(server):
    status, _, answer = server.ask("/v1/score/evaluation", {"model": "tiny", "messages": ["a"]})
    assert (status, "no reward model" in json.loads(answer)["error"]["message"]) == (400, True)

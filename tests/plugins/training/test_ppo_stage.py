"""Stage `ppo` in whole runs, with every kind of reward model."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from online_kit import ROWS, history, parameters, train
from safetensors.torch import load_file

from tkernel.errors import ConfigError
from tkernel.testing import tiny
from tkernel_plugins.training import value_head
from tkernel_plugins.training.online.rewards import RewardError

PPO = {"stage": "ppo", "max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "ppo_epochs": 2}


@pytest.fixture
def full(tmp_path):
    """A whole reward model: a tiny model with other weights and a value head."""
    folder = tmp_path / "reward"
    tiny.save_model(folder, seed=5)
    model = tiny.make_model(seed=5)
    head = value_head.attach(model, seed=5)
    head.summary.weight.data *= 10
    value_head.save(model, folder)
    return {"reward_model": str(folder), "reward_model_type": "full"}


@pytest.fixture
def lora(tmp_path):
    """An adapter with a value head, on the trained model itself."""
    from peft import LoraConfig, get_peft_model

    tiny.save_model(tmp_path / "model")
    model = tiny.make_bundle().module
    value_head.attach(model, seed=6)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "reward-lora")
    value_head.save(adapted, tmp_path / "reward-lora")
    return {"reward_model": str(tmp_path / "reward-lora"), "reward_model_type": "lora"}


class Server(BaseHTTPRequestHandler):
    """Counts the letter e; other paths misbehave."""

    seen: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        answers = {
            "/score": {"scores": [float(text.count("e")) for text in body["messages"]]},
            "/few": {"scores": [1.0]},
            "/none": {"reward": 1},
        }
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response(200 if self.path in answers else 503)
        self.end_headers()
        self.wfile.write(json.dumps(answers.get(self.path, "overloaded")).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """The address of a reward server."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_the_mean_reward_rises(tmp_path, full):
    many = {"per_device_train_batch_size": 64, "max_new_tokens": 2, "ppo_epochs": 4, "ppo_kl_coef": 0.02}
    pace = {"max_steps": 40, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 4}
    train(tmp_path, **{**PPO, **full, **many, **pace})
    rewards, spread = history(tmp_path, "out"), history(tmp_path, "out", "reward_std")
    assert rewards[-1] > rewards[0] + spread[0]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path, request, kind):
    judge = request.getfixturevalue(kind)
    how = {"finetuning_type": kind, "ppo_buffer_size": 2, "ppo_score_norm": True, "ppo_whiten_rewards": True}
    changes = {**PPO, **judge, **how, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = train(tmp_path, **changes)
    checkpoint = str(tmp_path / "out/checkpoint-3")
    resumed = train(tmp_path, "again", resume_from_checkpoint=checkpoint, **changes)
    again = parameters(resumed)
    assert all(torch.equal(value, again[name]) for name, value in parameters(whole).items())
    heads = [load_file(tmp_path / name / value_head.FILE) for name in ("out", "again", "out/checkpoint-3")]
    assert torch.equal(heads[0]["v_head.summary.weight"], heads[1]["v_head.summary.weight"])
    assert not torch.equal(heads[0]["v_head.summary.weight"], heads[2]["v_head.summary.weight"])
    for key in ("loss", "reward", "kl", "kl_coef", "value_loss"):
        assert history(tmp_path, "again", key) == history(tmp_path, "out", key), key


def test_the_model_that_is_saved_is_a_plain_one_with_its_value_head_beside(tmp_path, full):
    from transformers import AutoModelForCausalLM

    result = train(tmp_path, **PPO, **full, max_steps=2)
    names = load_file(tmp_path / "out/model.safetensors").keys()
    assert not [name for name in names if "v_head" in name]
    assert value_head.head_of(result.bundle.module) is None
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in parameters(result).items())
    value_head.load(result.bundle.module, tmp_path / "out")


def test_the_split_of_a_step_into_micro_batches_does_not_matter(tmp_path, full):
    series = []
    for size in (8, 2):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        trained = train(tmp_path, f"out{size}", **PPO, **full, **sizes, max_steps=3)
        series.append((history(tmp_path, f"out{size}", "loss"), parameters(trained)))
    assert series[1][0] == pytest.approx(series[0][0], rel=1e-3, abs=1e-5)
    assert all(torch.allclose(series[1][1][n], w, rtol=0, atol=3e-4) for n, w in series[0][1].items())


def test_an_evaluation_changes_nothing_and_reports_the_reward(tmp_path, full):
    without = train(tmp_path, "without", **PPO, **full, ppo_score_norm=True)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "held_out": ROWS[:3], "ppo_score_norm": True}
    with_it = train(tmp_path, "with", **PPO, **full, **evaluation)
    again = parameters(with_it)
    assert all(torch.equal(value, again[name]) for name, value in parameters(without).items())
    assert len(history(tmp_path, "with", "eval_reward")) == 4


def test_an_adapter_rewards_on_the_trained_model_itself(tmp_path, lora):
    train(tmp_path, **PPO, **lora, max_steps=1, finetuning_type="lora")
    from peft import PeftModel

    judge = PeftModel.from_pretrained(tiny.make_bundle().module, lora["reward_model"]).eval()
    value_head.load(judge, lora["reward_model"])
    first = json.loads((tmp_path / "out/completions.jsonl").read_text().splitlines()[0])
    assert first["reward"] == pytest.approx(first["rewards"]["reward_model"])
    assert first["reward"] != 0


def test_a_server_is_sent_the_texts_and_its_scores_are_the_rewards(tmp_path, server):
    Server.seen.clear()
    train(tmp_path, **PPO, reward_model=f"{server}/score", reward_model_type="api", max_steps=2)
    assert Server.seen[0]["model"] == "model"
    texts = Server.seen[0]["messages"]
    assert len(texts) == 4
    assert all(text.startswith("<|im_start|>user\nSay ") for text in texts)
    lines = [json.loads(line) for line in (tmp_path / "out/completions.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == [text.count("e") for text in texts]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("few", "gave .* as `scores` for 4 completions"),
        ("none", "has no `scores`"),
        ("gone", "failed: 503.*overloaded"),
        ("slow", "no answer in 0.5 seconds"),
    ],
)
def test_a_server_that_fails_is_named(tmp_path, server, path, message):
    with pytest.raises(RewardError, match=message):
        train(tmp_path, **PPO, reward_model=f"{server}/{path}", reward_model_type="api", reward_timeout=0.5)


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RewardError, match="cannot be reached"):
        train(tmp_path, **PPO, reward_model="http://127.0.0.1:9/x", reward_model_type="api")


def test_a_reward_model_of_another_vocabulary_is_refused(tmp_path, full):
    from tkernel.errors import TkError

    other = tiny.make_tokenizer((*tiny.SPECIAL_TOKENS[:-1], "<other>"))
    other.save_pretrained(full["reward_model"])
    with pytest.raises(TkError, match="another vocabulary"):
        train(tmp_path, **PPO, **full)


MISTAKES = {
    "needs a reward model": {},
    "wants an URL": {"reward_model": "{full}", "reward_model_type": "api"},
    "is an URL, and": {"reward_model": "http://x/y", "reward_model_type": "full"},
    "holds no adapter": {"reward_model": "{full}"},
    "holds an adapter": {"reward_model": "{lora}", "reward_model_type": "full"},
    "so it is no reward model": {"reward_model": "{model}", "reward_model_type": "full"},
    "ppo_epochs must be at least 1": {"reward_model": "{lora}", "ppo_epochs": 0},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_cannot_be_is_told_while_planning(tmp_path, full, lora, message):
    places = {"full": full["reward_model"], "lora": lora["reward_model"], "model": tmp_path / "model"}
    changes = {k: v.format(**places) if isinstance(v, str) else v for k, v in MISTAKES[message].items()}
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, **{**PPO, **changes})

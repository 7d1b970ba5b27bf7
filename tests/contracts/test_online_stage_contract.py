"""The built-in stages that generate keep their contract."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tkernel.testing import OnlineStageContract

SHORT = {"num_generations": 4, "max_completion_length": 6}


class TestGrpo(OnlineStageContract):
    plugin = "grpo"


@pytest.mark.slow
class TestGrpoOnTheSecondIteration(OnlineStageContract):
    plugin = "grpo"
    options = {**SHORT, "num_iterations": 2, "beta": 0.1, "loss_type": "grpo"}
    reuse = {"num_iterations": 3, "beta": 0.2}
    ignores = ""


class TestRloo(OnlineStageContract):
    plugin = "rloo"


def plain_letters(text: str) -> float:
    """How many characters of a text are ASCII."""
    return float(sum(letter.isascii() for letter in text))


class Judge(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        scores = [plain_letters(text) for text in body["messages"]]
        self.wfile.write(json.dumps({"scores": scores}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="class")
def judge(request):
    """A reward server, whose address the suite knows."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.cls.address = f"http://127.0.0.1:{server.server_port}/"
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("judge")
class TestPpo(OnlineStageContract):
    plugin = "ppo"
    # Without values a completion's advantage is its reward; with them the checks would look at an untrained head.
    options = {
        "max_new_tokens": 6,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "ppo_epochs": 1,
        "ppo_lambda": 1.0,
        "ppo_vf_coef": 0.01,
    }
    reuse = {"ppo_epochs": 3, "ppo_buffer_size": 2}
    compares = False
    ignores = ""
    tolerance = 1e-4
    address = ""

    def rewarded(self, judge):
        return {"reward_model": self.address, "reward_model_type": "api"}

    def rewards_of(self, tokenizer, replies):
        return [plain_letters(tokenizer.decode(list(reply.token_ids))) for reply in replies]

"""The contract of `ppo`: a server gives the rewards."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from tkernel.testing import OnlineStageContract
from tkernel.types.engine import Reply


def plain_letters(text: str) -> float:
    """How many characters of a text are ASCII."""
    return float(sum(letter.isascii() for letter in text))


class Judge(BaseHTTPRequestHandler):
    """Answers with `plain_letters` of each text."""

    def do_POST(self) -> None:
        """A body `{"messages": [...]}`."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        scores = [plain_letters(text) for text in body["messages"]]
        self.wfile.write(json.dumps({"scores": scores}).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class JudgedContract(OnlineStageContract):
    """`OnlineStageContract` with rewards from a server that runs beside the checks."""

    # Without values a completion's advantage is its reward; with them the checks would look at an untrained head.
    options: ClassVar[Mapping[str, Any]] = {
        "max_new_tokens": 6,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "ppo_epochs": 1,
        "ppo_lambda": 1.0,
        "ppo_vf_coef": 0.01,
    }
    reuse: ClassVar[Mapping[str, Any]] = {"ppo_epochs": 3, "ppo_buffer_size": 2}
    compares = False
    ignores = ""
    tolerance = 1e-4
    server: ClassVar[ThreadingHTTPServer]

    @classmethod
    def setup_class(cls) -> None:
        """Start the server."""
        cls.server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()

    @classmethod
    def teardown_class(cls) -> None:
        """Stop it."""
        cls.server.shutdown()
        cls.server.server_close()

    def rewarded(self, judge: str) -> Mapping[str, Any]:
        """The server, whatever the judge."""
        return {
            "reward_model": f"http://127.0.0.1:{self.server.server_port}/",
            "reward_model_type": "api",
        }

    def rewards_of(self, tokenizer: Any, replies: Sequence[Reply]) -> list[float]:
        """What the server says."""
        return [plain_letters(tokenizer.decode(list(reply.token_ids))) for reply in replies]

"""Facts from the hub, spoken to over HTTP: a small server answers as the hub does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)

FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer_config.json": b'{"chat_template": "from the hub"}',
}
REFUSED = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "empty": (404, "EntryNotFound")}


class Hub(BaseHTTPRequestHandler):
    """`/org/NAME/resolve/REVISION/FILE`, with the headers that the hub's client reads."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        _, _, name, _, revision, file = self.path.split("/", 5)
        status, code = REFUSED.get(name, (200, ""))
        if revision != "main":
            status, code = 404, "RevisionNotFound"
        elif file not in FILES and status == 200:
            status, code = 404, "EntryNotFound"
        body = FILES.get(file, b"") if status == 200 else b""
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{file}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: pytest's output is for failures."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


CODE = """
import sys
from tkernel.errors import TkError
from tkernel.facts import read_facts
try:
    facts = read_facts(sys.argv[1], revision=sys.argv[2])
    print(facts.source, facts.model_type, facts.chat_template, facts.location)
except TkError as error:
    print(error)
"""


def ask(endpoint: str, cache: Path, name: str, revision: str = "main") -> str:
    """What `read_facts` finds or says in a process whose hub is `endpoint`."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE, name, revision],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_of_the_hub_is_read_and_then_in_the_cache(endpoint: str, tmp_path: Path) -> None:
    location = tmp_path / "models--org--good" / "snapshots" / ("c" * 40)
    expected = f"hub qwen3 from the hub {location}"
    assert ask(endpoint, tmp_path, "org/good") == expected
    assert ask("http://127.0.0.1:9", tmp_path, "org/good") == expected


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "gated",
            "main",
            "is gated on the hub.\n  Ask at https://huggingface.co/org/gated, then: hf auth login",
        ),
        (
            "missing",
            "main",
            "is neither a local path nor a model on the hub that you may read.\n  Check the name, or: hf auth login",
        ),
        ("good", "v9", "has no revision 'v9' on the hub.\n  Change `model_revision`."),
        ("empty", "main", "has no config.json on the hub.\n  Name a repository that holds a model."),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    endpoint: str, tmp_path: Path, name: str, revision: str, message: str
) -> None:
    assert ask(endpoint, tmp_path, f"org/{name}", revision) == f"org/{name} {message}"


def test_a_hub_that_cannot_be_reached_is_told_at_once(tmp_path: Path) -> None:
    said = ask("http://127.0.0.1:9", tmp_path, "org/other")
    assert said.startswith("org/other is not a local path, and the hub cannot be reached: ")
    assert said.endswith("\n  Check the network, or give a local path.")

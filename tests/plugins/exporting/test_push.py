"""An export goes to the hub in one commit, through the real client and a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tkernel.testing import tiny


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as an upload takes."""

    protocol_version = "HTTP/1.1"
    files: dict[str, int]
    stored: dict[str, bytes]
    created: list[dict]

    def log_message(self, format, *args):
        """Say nothing."""

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        sha = "a" * 40
        self.answer({"id": "me/model", "sha": sha, "siblings": [], "name": "me"})

    def do_PUT(self):
        self.stored[self.path] = self.body()
        self.answer({})

    def do_POST(self):
        content = self.body()
        url = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path.endswith("/api/repos/create"):
            self.created.append(json.loads(content))
            self.answer({"url": f"{url}/me/model", "name": "me/model"})
        elif self.path.endswith("/api/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            self.answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                            "shouldIgnore": False,
                        }
                        for file in asked
                    ]
                }
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            self.answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {**each, "actions": {"upload": {"href": f"{url}/store/{each['oid']}"}}}
                        for each in objects
                    ],
                }
            )
        elif "/commit/" in self.path:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] in ("file", "lfsFile"):
                    self.files[entry["value"]["path"]] = 1
            self.answer({"commitUrl": f"{url}/me/model/commit/{'b' * 40}", "commitOid": "b" * 40})
        else:
            self.answer({"error": f"no {self.path}"}, 404)


@pytest.fixture
def hub():
    handler = type("Handler", (Hub,), {"files": {}, "stored": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler
    server.shutdown()
    server.server_close()


def export(folder: Path, address: str, *words: str):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    command = [str(Path(sys.executable).with_name("tk")), "export", f"model_name_or_path={folder / 'model'}"]
    return subprocess.run(
        [*command, "template=chatml", f"export_dir={folder / 'out'}", "export_hub_model_id=me/model", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def test_every_file_of_the_export_is_uploaded_to_a_private_repository(hub, tmp_path):
    tiny.save_model(tmp_path / "model")
    done = export(tmp_path, hub.address, "hf_hub_token=hf_right")
    assert done.returncode == 0, done.stderr
    asked = hub.created[0]
    assert asked.get("private") is True or asked["visibility"] == "private"  # older and newer clients
    assert set(hub.files) == {path.name for path in (tmp_path / "out").iterdir()}
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights in hub.stored.values()
    assert "hf_right" not in (tmp_path / "out" / "export.lock.json").read_text()


def test_a_hub_that_refuses_is_an_error_that_says_how_to_go_on_and_keeps_the_folder(hub, tmp_path):
    tiny.save_model(tmp_path / "model")
    done = export(tmp_path, hub.address, "hf_hub_token=hf_wrong")
    assert done.returncode == 1
    assert "cannot be uploaded to me/model" in done.stderr
    assert "hf upload me/model" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()

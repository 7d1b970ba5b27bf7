"""Adapters by name: planned before anything is loaded, found in the cache or on the hub (a server on loopback)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from tkernel.errors import ConfigError
from tkernel.pipeline import open_session
from tkernel.testing import tiny
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.lora import ADAPTER, LoraOptions

COMMIT = "c" * 40


def adapt(*folders, settings=(), trainable=True, **options):
    request = AdapterRequest(
        LoraOptions(**options), tuple(map(str, folders)), trainable, settings=dict(settings)
    )
    return ADAPTER.adapt(tiny.make_bundle(), request).module


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model, data and `out/support`, an adapter of rank 16 that does something."""
    monkeypatch.chdir(tmp_path)
    tiny.save_model(Path("model"))
    Path("rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    module = adapt(lora_rank=16)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    module.save_pretrained("out/support")
    return tmp_path


def problems(**settings):
    config = {"model_name_or_path": "model", "dataset": "rows.jsonl", "output_dir": "new", **settings}
    with pytest.raises(ConfigError) as caught:
        open_session(config)
    return [str(problem) for problem in caught.value.problems]


def in_cache(folder, cache):
    """The cache of the hub's client, with `org/support`."""
    snapshot = cache / "models--org--support" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / file).write_bytes((folder / file).read_bytes())
    (cache / "models--org--support" / "refs").mkdir()
    (cache / "models--org--support" / "refs" / "main").write_text(COMMIT)


def test_a_mistyped_folder_that_looks_like_a_name_of_the_hub_is_told_with_the_folder_that_was_meant(here):
    assert problems(adapter_name_or_path="out/suport") == [
        "settings: There is no folder out/suport.\n    Did you mean 'out/support'?"
    ]


def test_a_name_that_is_not_in_the_cache_is_an_error_while_the_hub_is_switched_off(here, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (told,) = problems(adapter_name_or_path="org/nothing", cache_dir=str(here / "cache"))
    assert "org/nothing is neither a local path nor in the cache" in told
    assert "HF_HUB_OFFLINE is set" in told


def test_a_folder_that_is_no_adapter_is_told_while_planning(here):
    (here / "empty").mkdir()
    assert "empty is not an adapter" in problems(adapter_name_or_path="empty")[0]
    (here / "out/support/adapter_model.safetensors").unlink()
    assert "out/support has no adapter_model.safetensors" in problems(adapter_name_or_path="out/support")[0]
    (here / "out/support/adapter_config.json").write_text("{")
    assert "adapter_config.json is damaged" in problems(adapter_name_or_path="out/support")[0]


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_a_method_that_loads_no_adapter_says_so_while_planning(here, method):
    (told,) = problems(adapter_name_or_path="out/support", finetuning_type=method)
    assert f"`finetuning_type: {method}` cannot load the adapter out/support" in told


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"lora_rank": 8}, "has lora_rank 16; `lora_rank: 8` cannot change that"),
        ({"lora_alpha": 8}, "has lora_alpha 32; `lora_alpha: 8` cannot change that"),
        ({"lora_target": "q_proj"}, "`lora_target: q_proj` cannot change that"),
        ({"use_dora": True}, "has use_dora False; `use_dora: True` cannot change that"),
    ],
)
def test_an_option_that_is_written_and_has_no_effect_is_an_error_also_at_its_default(here, written, message):
    (told,) = problems(adapter_name_or_path="out/support", **written)
    assert message in told


def test_an_option_that_is_written_as_the_adapter_has_it_is_none(here):
    config = {"model_name_or_path": "model", "adapter_name_or_path": "out/support", "lora_rank": 16}
    assert open_session(config).plan
    assert open_session({**config, "lora_rank": 8, "create_new_adapter": True}).plan
    talking = ("model", "adapter", "template", "engine")
    assert open_session({**config, "lora_rank": 8}, calls=talking).plan


def test_all_targets_are_compared_with_the_layers_of_the_model(tmp_path):
    adapt(lora_target="q_proj").save_pretrained(tmp_path / "one")
    adapt().save_pretrained(tmp_path / "all")
    with pytest.raises(Exception, match="`lora_target: all` cannot change that"):
        adapt(tmp_path / "one", settings={"lora_target": "all"})
    assert adapt(tmp_path / "all", settings={"lora_target": "all"}).peft_config
    assert adapt(tmp_path / "one").peft_config


def test_an_adapter_in_the_cache_loads_as_the_folder_does(here):
    in_cache(here / "out/support", here / "cache")
    settings = {"cache_dir": str(here / "cache")}
    open_session({"model_name_or_path": "model", "adapter_name_or_path": "org/support", **settings})
    (told,) = problems(adapter_name_or_path="org/support", lora_rank=8, **settings)
    assert "adapter org/support, which is trained further, has lora_rank 16" in told
    for name, parameter in adapt("org/support", settings=settings).named_parameters():
        if "lora_B" in name:
            assert parameter.eq(0.01).all()


def test_an_adapter_of_the_hub_is_fetched_and_loads(here):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            name = self.path.rpartition("/")[2].partition("?")[0]
            file = here / "out/support" / name
            content, status = b"", 404
            if self.path.startswith("/api/models/org/support/tree"):
                files = sorted((here / "out/support").iterdir())
                listed = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files
                ]
                content, status = json.dumps(listed).encode(), 200
            elif self.path.startswith("/api/models/org/support"):
                names = [{"rfilename": f.name} for f in sorted((here / "out/support").iterdir())]
                content, status = (
                    json.dumps({"id": "org/support", "sha": COMMIT, "siblings": names}).encode(),
                    200,
                )
            elif "/resolve/" in self.path and file.is_file():
                content, status = file.read_bytes(), 200
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{name}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from tkernel.pipeline import adapt, load_model, open_session, render_template\n"
        "session = open_session({'model_name_or_path': 'model', 'adapter_name_or_path': 'org/support'})\n"
        "bundle = load_model(session)\n"
        "module = adapt(session, bundle, render_template(session, bundle)).module\n"
        "print({float(p.max()) for n, p in module.named_parameters() if 'lora_B' in n})\n"
    )
    clean = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_CACHE": str(here / "fresh")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **hub, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("{0.0099")


def test_the_lock_has_the_content_of_the_adapter(here):
    def hashed():
        session = open_session({"model_name_or_path": "model", "adapter_name_or_path": "out/support"})
        return session.lock().hashes["adapter out/support"]

    before = hashed()
    config = here / "out/support/adapter_config.json"
    config.write_text(config.read_text() + "\n")
    assert hashed() != before

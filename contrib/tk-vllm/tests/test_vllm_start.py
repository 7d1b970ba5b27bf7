"""What is refused before vLLM is started, and how its server is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tk_vllm import ENGINE, Options
from tk_vllm.server import _arguments
from tk_vllm.weights import Weights, weights_of

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.types.requests import EngineRequest


@pytest.fixture
def request_of(tmp_path):
    """A request for a tiny model on disk; keyword arguments change it."""
    from importlib.metadata import entry_points

    from tkernel.types.requests import TemplateRequest

    facts = tiny.save_model(tmp_path / "model")
    (entry,) = entry_points(group="tkernel.template", name="chatml")
    renderer = entry.load().render_template(TemplateRequest("chatml", tiny.make_tokenizer()))
    return lambda **changes: replace(EngineRequest(renderer=renderer, facts=facts), **changes)


def adapter(folder: Path, **config):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, **config}))
    return str(folder)


def test_a_folder_is_served_as_it_is_with_its_adapter(request_of, tmp_path):
    one = adapter(tmp_path / "one")
    found = weights_of(request_of(adapters=(one,)), tmp_path / "scratch")
    assert found == Weights(str(tmp_path / "model"), one)


def test_a_module_in_memory_is_written_for_vllm(request_of, tmp_path):
    bundle = tiny.make_bundle()
    found = weights_of(request_of(bundle=bundle), tmp_path / "scratch")
    assert (Path(found.model) / "model.safetensors").is_file()
    assert (Path(found.model) / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["modules_to_save", "trainable_token_indices", "use_dora"])
def test_an_adapter_that_vllm_would_load_wrongly_is_refused(request_of, tmp_path, name):
    with pytest.raises(TkError, match=f"has `{name}`, which vLLM does not load") as error:
        weights_of(request_of(adapters=(adapter(tmp_path / "bad", **{name: [1]}),)), tmp_path)
    assert "tk export" in error.value.hint


def test_several_adapters_and_gguf_files_are_refused(request_of, tmp_path):
    two = (adapter(tmp_path / "a"), adapter(tmp_path / "b"))
    with pytest.raises(TkError, match="one adapter at a time, not 2"):
        weights_of(request_of(adapters=two), tmp_path)
    gguf = replace(request_of().facts, source="gguf")
    with pytest.raises(TkError, match="vLLM does not load"):
        weights_of(request_of(facts=gguf), tmp_path)


def test_an_environment_without_vllm_is_told_with_the_command_that_makes_one(request_of):
    with pytest.raises(TkError, match="has no vLLM") as error:
        ENGINE.generate(request_of(options=Options(vllm_python=sys.executable)))
    assert "tk env create DIR --with contrib/tk-vllm" in error.value.hint
    with pytest.raises(TkError, match="cannot be run"):
        ENGINE.generate(request_of(options=Options(vllm_python="/nowhere/python")))


def test_options_are_those_of_the_server_and_its_key_is_not_among_them():
    options = Options(
        vllm_enforce_eager=True, vllm_config={"max_num_seqs": 8, "enable_prefix_caching": False}
    )
    words = _arguments(Weights("m", "a"), options, 1234)
    text = " ".join(words)
    assert "--host 127.0.0.1 --port 1234" in text
    assert "--enforce-eager" in words
    assert "--enable-lora --max-lora-rank 32 --lora-modules adapter=a" in text
    assert "--max-num-seqs 8 --no-enable-prefix-caching" in text
    assert "--api-key" not in words


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    """Killed so that it can do nothing more; the server here is a module of Python's own."""
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import subprocess, sys, time\n"
        "from tk_vllm.server import WATCHED\n"
        "command = [sys.executable, '-c', WATCHED, 'http.server', '--bind', '127.0.0.1', '0']\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    path = os.pathsep.join(word for word in sys.path if word)
    started = subprocess.Popen(
        [sys.executable, str(parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    )
    said = [started.stdout.readline(), started.stdout.readline()]
    (number,) = [int(line) for line in said if line.strip().isdigit()]
    assert any("Serving HTTP" in line for line in said)
    started.kill()
    started.wait()
    end = time.monotonic() + 60
    while _runs(number):
        assert time.monotonic() < end, "the server still runs"
        time.sleep(0.05)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")

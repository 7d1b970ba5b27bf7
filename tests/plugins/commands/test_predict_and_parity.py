"""`tk predict` and `tk parity`, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tkernel.testing import tiny

ECHO = """
from dataclasses import dataclass
from types import SimpleNamespace
from tkernel import hookimpl

@dataclass(frozen=True)
class Options:
    echo_end: str = ""

class Echo:
    name, Options = "echo", Options
    @hookimpl
    def generate(self, request):
        end = request.options.echo_end
        said = lambda given, sampling=None: [SimpleNamespace(text=c.messages[-1].content + end) for c in given]
        return SimpleNamespace(stream=None, reply=said, close=lambda: None)

ENGINE = Echo()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("predict")
    tiny.save_model(made / "model")
    rows = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "yes yes"}]}
        for n in range(6)
    ]
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "run.yaml").write_text(
        f"model_name_or_path: {made / 'model'}\ntemplate: chatml\ndataset: {made / 'rows.jsonl'}\n"
        f"output_dir: {made / 'out'}\nmax_new_tokens: 4\ndo_sample: false\nlearning_rate: 1.0e-4\n"
    )
    return made


def tk(*words: str, path: Path | None = None):
    command = [str(Path(sys.executable).with_name("tk")), *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def predictions(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "generated_predictions.jsonl").read_text().splitlines()]


def test_without_held_out_data_every_conversation_of_dataset_is_replied_to(folder, tmp_path):
    done = tk("predict", str(folder / "run.yaml"), f"output_dir={tmp_path / 'all'}")
    assert done.returncode == 0, done.stderr
    lines = predictions(tmp_path / "all")
    assert [line["label"] for line in lines] == ["yes yes"] * 6
    assert "say 5" in lines[5]["prompt"]
    assert not (tmp_path / "all" / "adapter_model.safetensors").exists()


def test_the_folder_of_another_run_is_refused_and_left_as_it_is(folder, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "model.safetensors").write_text("")
    done = tk("predict", str(folder / "run.yaml"), f"output_dir={tmp_path / 'held'}")
    assert done.returncode == 1
    assert "holds the result of another run" in done.stderr
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["model.safetensors"]


def test_what_val_size_splits_off_is_what_is_replied_to(folder, tmp_path):
    done = tk("predict", str(folder / "run.yaml"), f"output_dir={tmp_path / 'some'}", "val_size=2")
    assert done.returncode == 0, done.stderr
    assert len(predictions(tmp_path / "some")) == 2


def test_parity_prints_ids_and_replies_and_the_engines_that_agree(folder):
    done = tk("parity", str(folder / "run.yaml"), "--prompt", "say 1", "--tokens", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("prompt ")
    assert "\nhuggingface\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("equal: huggingface")


def test_an_engine_that_says_something_else_is_named(folder, tmp_path):
    info = tmp_path / "tk_echo-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tk-echo\nVersion: 0.1\nRequires-Dist: tkernel>=1,<2\n"
    )
    (info / "entry_points.txt").write_text("[tkernel.engine]\necho = tk_echo:ENGINE\n")
    (tmp_path / "tk_echo.py").write_text(ECHO)
    done = tk("parity", str(folder / "run.yaml"), "--prompt", "say 1", "--tokens", "3", path=tmp_path)
    assert done.returncode == 1
    assert "  'say 1'" in done.stdout
    assert "different from echo: huggingface" in done.stderr
    model = (f"model_name_or_path={folder / 'model'}", "template=chatml", "infer_backend=echo", "echo_end=!")
    named = tk("parity", *model, "--prompt", "say 1", "--tokens", "3", path=tmp_path)
    assert "  'say 1!'" in named.stdout, "keys of the engine that is named are its own"
    assert "different from echo: huggingface" in named.stderr

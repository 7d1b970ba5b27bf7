"""Named templates are compared with what the tokenizer brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.auto import TEMPLATE as AUTO
from tkernel_plugins.templates.vendors.generic import CHATML
from tkernel_plugins.training.comparison import PLAIN, TOOLS, differences, first_difference, shapes_in

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


def test_shapes_that_the_data_has_are_compared() -> None:
    said = {"role": "assistant", "content": "a", "reasoning": None, "tool_calls": []}
    plain, thought, called = (
        {"messages": [{**said, **change}], "tools": ""}
        for change in ({}, {"reasoning": "b"}, {"tool_calls": [{"function": {"name": "f"}}]})
    )
    assert shapes_in([plain]) == PLAIN
    assert "a reply with a thought" in shapes_in([plain, thought])
    assert "a call" in shapes_in([called])
    assert "a call" in shapes_in([{**plain, "tools": "[{}]"}])


def test_a_difference_in_tools_is_found_where_tools_are_compared(renderer: Renderers) -> None:
    used = renderer("qwen3", "qwen3")
    assert first_difference(used, used.tokenizer) is None
    difference = first_difference(used, used.tokenizer, TOOLS)
    assert difference is not None
    assert difference.conversation == "a question with a tool"
    assert difference.excerpts(0, 9) == ("\n\n# Tools", "# Tools\n\n")


def test_every_shape_is_answered_where_either_template_refuses() -> None:
    tokenizer = tiny.make_tokenizer()
    used = CHATML.renderer(tokenizer)
    refusing = tokenizer.chat_template + "{{ raise_exception('tools') if tools }}"
    found = dict(differences(used, tokenizer, {**PLAIN, **TOOLS}, refusing))
    assert [name for name, difference in found.items() if difference] == list(TOOLS)
    assert found["a question with a tool"].theirs is None


def test_the_models_own_template_is_no_difference() -> None:
    tokenizer = tiny.make_tokenizer()
    used = AUTO.render_template(TemplateRequest("auto", tokenizer))
    assert first_difference(used, tokenizer, {**PLAIN, **TOOLS}) is None

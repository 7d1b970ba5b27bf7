"""A named template written as Jinja says what the template says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from template_kit import PLAIN, TEXTS, as_dicts, built_in, conversations

from tkernel.errors import DataError
from tkernel.rendering import SegmentRenderer
from tkernel.types.conversation import Conversation

NAMED = sorted({entry.name for entry in entry_points(group="tkernel.template")} - {"auto"})
Renderers = Callable[..., SegmentRenderer]
FEW = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def jinja_text(used: SegmentRenderer, conversation: Conversation, **variables: Any) -> str:
    """What transformers makes of the Jinja form."""
    text: str = used.tokenizer.apply_chat_template(
        as_dicts(conversation),
        tools=list(conversation.tools) or None,
        chat_template=used.jinja(),
        tokenize=False,
        **variables,
    )
    return text


def prompt_text(used: SegmentRenderer, conversation: Conversation) -> str:
    """The prompt as text, special tokens spelled out."""
    return "".join(segment.text for segment in used._prompt_of(conversation))


@pytest.mark.parametrize("name", NAMED)
@settings(FEW, max_examples=8)
@given(data=st.data())
def test_jinja_gives_the_text_and_the_prompt(
    renderer: Renderers, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject
) -> None:
    # Jinja asks the clock for a date; only the tool format llama3 prints one.
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    used = renderer(name)
    template = built_in(name)
    parallel, before_calls = template.tool_format != "glm4", template.text_before_calls
    conversation = data.draw(
        conversations(tools=True, thoughts=True, parallel=parallel, before_calls=before_calls)
    )
    assert jinja_text(used, conversation) == used.text(conversation)
    asked = conversation.replace(messages=conversation.messages[:-1])
    assert jinja_text(used, asked, add_generation_prompt=True) == prompt_text(used, asked)


@pytest.mark.parametrize(
    ("name", "family"),
    [("chatml", "smollm2"), ("qwen3", "qwen3"), ("llama3", "llama3_1"), ("gemma", "gemma3")],
)
@FEW
@given(conversation=conversations(tools=False, thoughts=False))
def test_jinja_gives_the_ids_where_special_tokens_are_the_borders(
    renderer: Renderers, name: str, family: str, conversation: Conversation
) -> None:
    # What is trimmed or merged at a border is no part of this: contents begin and end with a letter.
    messages = tuple(replace(m, content=f"a{m.content}z") for m in conversation.messages)
    conversation = conversation.replace(messages=messages)
    used = renderer(name, family)
    text = jinja_text(used, conversation)
    (encoded,) = used.encode([conversation])
    assert used.tokenizer.encode(text, add_special_tokens=False) == encoded.input_ids


@pytest.mark.parametrize("name", ["ernie_vl", "gemma4", "glm4_7", "gpt_oss", "qwen3", "seed_oss"])
@pytest.mark.parametrize("thinking", [True, False, None])
@pytest.mark.parametrize("preserve", [True, False])
@settings(FEW, max_examples=12)
@given(conversation=conversations(tools=True, thoughts=True))
def test_jinja_thinks_as_the_template_does(
    renderer: Renderers, name: str, thinking: bool | None, preserve: bool, conversation: Conversation
) -> None:
    used = renderer(name, enable_thinking=thinking, preserve_thinking=preserve)
    assert jinja_text(used, conversation) == used.text(conversation)
    asked = conversation.replace(messages=conversation.messages[:-1])
    assert jinja_text(used, asked, add_generation_prompt=True) == prompt_text(used, asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
@settings(FEW, max_examples=40, derandomize=False)
@given(data=st.data())
def test_jinja_gives_text_prompt_and_ids_of_whatever_is_said(
    renderer: Renderers, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    thinking, preserve = data.draw(st.sampled_from([True, False, None])), data.draw(st.booleans())
    used, template = renderer(name, enable_thinking=thinking, preserve_thinking=preserve), built_in(name)
    conversation = data.draw(
        conversations(
            tools=True,
            thoughts=True,
            parallel=template.tool_format != "glm4",
            before_calls=template.text_before_calls,
            # A thought that spells where thoughts begin is taken out by a template and its Jinja each in its way.
            texts=st.one_of(
                TEXTS, PLAIN.filter(lambda text: "think" not in text).map(lambda text: f"a{text}z")
            ),
        )
    )
    text = jinja_text(used, conversation)
    assert text == used.text(conversation)
    asked = conversation.replace(messages=conversation.messages[:-1])
    assert jinja_text(used, asked, add_generation_prompt=True) == prompt_text(used, asked)
    segments = [s for turn in used.turns(conversation) for s in (*turn.prompt, *turn.reply) if s.text]
    tokens = tuple(used.tokenizer.get_added_vocab())
    if all(a.text.endswith(tokens) or b.text.startswith(tokens) for a, b in pairwise(segments)):
        (encoded,) = used.encode([conversation])
        ids = encoded.input_ids[:-1] if used.efficient_eos else encoded.input_ids
        assert used.tokenizer.encode(text, add_special_tokens=False) == ids


def test_enable_thinking_can_be_given_to_the_jinja_form(renderer: Renderers) -> None:
    conversation = Conversation.from_row({"messages": [{"role": "user", "content": "2+3?"}]})
    written = jinja_text(renderer("qwen3"), conversation, add_generation_prompt=True, enable_thinking=False)
    assert written == prompt_text(renderer("qwen3", enable_thinking=False), conversation)


def test_a_system_prompt_of_the_options_is_the_default_of_the_jinja_form(renderer: Renderers) -> None:
    used = renderer("smollm2", default_system="It's a @PREFIX@ 'quoted' \\ line\nand {{ another }}")
    conversation = Conversation.from_row({"messages": [{"role": "user", "content": "2+3?"}]})
    assert jinja_text(used, conversation, add_generation_prompt=True) == prompt_text(used, conversation)


@pytest.mark.parametrize("name", ["chatml", "glm4_7", "qwen3"])
@pytest.mark.parametrize("content", ["<think>\nW.\n</think>", "<think>\nW.\n</think>\n\n", "W."])
def test_text_before_calls_is_the_same_in_jinja(renderer: Renderers, name: str, content: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    said = {"role": "assistant", "content": content, "tool_calls": [call]}
    conversation = Conversation.from_row({"messages": [{"role": "user", "content": "2+3?"}, said]})
    assert jinja_text(renderer(name), conversation) == renderer(name).text(conversation)


def test_the_jinja_form_refuses_text_before_calls_where_the_template_does(renderer: Renderers) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    said = {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}
    conversation = Conversation.from_row({"messages": [{"role": "user", "content": "2+3?"}, said]})
    with pytest.raises(DataError, match="no place for what a reply says before its calls: 'Let me look"):
        renderer("mistral").text(conversation)
    with pytest.raises(TemplateError, match="no place for text before calls"):
        jinja_text(renderer("mistral"), conversation)

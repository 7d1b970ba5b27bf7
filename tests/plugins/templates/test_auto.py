"""`template: auto` says what the tokenizer's own chat template says, as turns and segments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from template_kit import NEWS, as_dicts, conversations

from tkernel.errors import DataError, TkError
from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.auto import TEMPLATE, AutoOptions
from tkernel_plugins.templates.tool_formats.format import wrapped

Tokenizers = Callable[[str], Any]
REAL = ["smollm2", "qwen3", "llama3_1", "gemma3", "deepseek_v3"]
TRL = ["cohere", "gemma", "gemma4_v2", "lfm2_v2", "phi3", "qwen2_5", "qwen3", "qwen3_instruct_2507"]
CHATML = tiny.CHAT_TEMPLATE
CONVERSATIONS = {
    "one": (("user", "Hi there"), ("assistant", "Hello!")),
    "several": (
        *(("user", "Hi"), ("assistant", "Hello!"), ("user", " What?  \n"), ("assistant", "4\n\nx")),
        *(("user", "And 12?"), ("assistant", "naïve 😀 台风")),
    ),
    "system": (("system", "Be nice."), ("user", "Hi"), ("assistant", "Hello!")),
}


def talk(*messages: tuple[str, str] | Message, **fields: Any) -> Conversation:
    return Conversation(tuple(m if isinstance(m, Message) else Message(*m) for m in messages), **fields)


def auto(
    tokenizer: Any, chat_template: str | None = None, facts: Any = None, **options: Any
) -> SegmentRenderer:
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return TEMPLATE.render_template(TemplateRequest("auto", tokenizer, facts, AutoOptions(**options)))


def own_ids(tokenizer: Any, conversation: Conversation, **variables: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        as_dicts(conversation),
        tools=[wrapped(tool) for tool in conversation.tools] or None,
        return_dict=False,
        **variables,
    )
    return ids


def replies(used: SegmentRenderer, conversation: Conversation, **options: Any) -> list[str]:
    """The supervised stretches, decoded."""
    (encoded,) = used.encode([conversation], **options)
    return [
        used.tokenizer.decode(encoded.input_ids[start:end])
        for start, end, _, part in encoded.spans
        if part == "reply"
    ]


@pytest.mark.parametrize("name", REAL)
def test_ids_are_those_of_apply_chat_template(tokenizer: Tokenizers, name: str) -> None:
    used = auto(tokenizer(name))
    for messages in CONVERSATIONS.values():
        conversation = talk(*messages)
        for mask_history in (False, True):
            (encoded,) = used.encode([conversation], mask_history=mask_history)
            assert encoded.input_ids == own_ids(used.tokenizer, conversation)
        asked = conversation.replace(messages=conversation.messages[:-1])
        expected = own_ids(used.tokenizer, asked, add_generation_prompt=True)
        assert used.prompt_ids(asked) == expected
        assert used.encode([conversation], mask_history=True)[0].input_ids[: len(expected)] == expected


@pytest.mark.parametrize("name", TRL)
def test_ids_are_those_of_trls_chat_templates(tokenizer: Tokenizers, name: str) -> None:
    import trl

    source = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    with_tokens = tokenizer("smollm2")
    # A model's tokenizer has the tokens that its template writes.
    named = sorted(set(re.findall(r"<\|\w+\|>|<\w+_of_turn>|<\|?\w+\|?>", source)))
    with_tokens.add_special_tokens({"extra_special_tokens": named}, replace_extra_special_tokens=False)
    used = auto(with_tokens, source)
    for kind, messages in CONVERSATIONS.items():
        if (name, kind) == ("gemma", "system"):
            continue  # it refuses system prompts
        conversation = talk(*messages)
        (encoded,) = used.encode([conversation])
        assert encoded.input_ids == own_ids(used.tokenizer, conversation)
        asked = conversation.replace(messages=conversation.messages[:-1])
        assert used.prompt_ids(asked) == own_ids(used.tokenizer, asked, add_generation_prompt=True)


@pytest.mark.parametrize("thinking", [True, False, None])
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(conversation=conversations(tools=True, thoughts=True))
def test_thoughts_and_calls_are_where_qwen3_writes_them(
    tokenizer: Tokenizers, thinking: bool | None, conversation: Conversation
) -> None:
    used = auto(tokenizer("qwen3"), enable_thinking=thinking)
    variables = {} if thinking is None else {"enable_thinking": thinking}
    if thinking is False:
        messages = tuple(Message(m.role, m.content, m.tool_calls) for m in conversation.messages)
        conversation = conversation.replace(messages=messages)
    (encoded,) = used.encode([conversation], mask_history=True)
    assert used.tokenizer.decode(encoded.input_ids) == used.tokenizer.decode(
        own_ids(used.tokenizer, conversation, **variables)
    )
    start = encoded.spans[-1][0]
    asked = conversation.replace(messages=conversation.messages[:-1])
    assert encoded.input_ids[:start] == used.prompt_ids(asked)


def test_a_reply_ends_with_its_terminator_and_the_line_break_that_is_written(tokenizer: Tokenizers) -> None:
    conversation = talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert replies(auto(tokenizer("smollm2")), conversation) == ["b<|im_end|>\n", "d<|im_end|>\n"]


def test_without_a_terminator_the_end_of_the_sequence_is_learned() -> None:
    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    used = auto(tiny.make_tokenizer(), source)
    conversation = talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    (encoded,) = used.encode([conversation])
    end = used.tokenizer.eos_token_id
    assert encoded.input_ids == [*own_ids(used.tokenizer, conversation), end]
    assert encoded.labels.count(end) == 2
    assert used.stop_ids[0] == end


def test_an_earlier_reply_that_loses_its_thought_is_not_learned_silently(tokenizer: Tokenizers) -> None:
    used = auto(tokenizer("qwen3"))
    thinking = talk(
        ("user", "a"),
        Message("assistant", "b", reasoning="lost"),
        ("user", "c"),
        Message("assistant", "d", reasoning="kept"),
    )
    with pytest.raises(DataError, match="leaves out the thought of message 1") as caught:
        used.encode([thinking])
    assert "mask_history" in str(caught.value)
    last = used.encode([thinking], mask_history=True)[0]
    assert "lost" not in used.tokenizer.decode(last.input_ids)
    unlearned = (thinking.messages[0], Message("assistant", "b", reasoning="lost", train=False))
    used.encode([thinking.replace(messages=unlearned + thinking.messages[2:])])


def test_a_prompt_that_changes_once_the_reply_follows_is_an_error_in_training_only() -> None:
    source = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n' }}")
    used = auto(tiny.make_tokenizer(), source)
    with pytest.raises(DataError, match="what comes before the last reply differently"):
        used.encode([talk(("user", "a"), ("assistant", "b"))])
    prompt = used.prompt_ids(talk(("user", "a")))
    assert used.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")


@pytest.mark.parametrize(
    ("messages", "tools", "match"),
    [
        ((Message("assistant", tool_calls=(ToolCall("f", "{}"),)),), (), "no place for the call to 'f'"),
        ((Message("assistant", "b"),), (NEWS,), "no place for tools"),
    ],
)
def test_what_the_template_leaves_out_is_an_error(messages: Any, tools: Any, match: str) -> None:
    used = auto(tiny.make_tokenizer())
    with pytest.raises(DataError, match=match):
        used.encode([talk(("user", "a"), *messages, tools=tools)])


def test_a_system_prompt_without_a_place_is_an_error() -> None:
    source = CHATML.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    with pytest.raises(DataError, match="no place for message 0"):
        auto(tiny.make_tokenizer(), source).encode([talk(("system", "s"), ("user", "a"), ("assistant", "b"))])


def test_what_the_template_refuses_is_a_data_error(tokenizer: Tokenizers) -> None:
    with pytest.raises(DataError, match="roles must alternate"):
        auto(tokenizer("gemma3")).encode([talk(("user", "a"), ("user", "b"), ("assistant", "c"))])


def test_a_template_that_looks_into_contents_is_followed() -> None:
    source = CHATML.replace("message['content']", "message['content'].replace('cat', 'dog')")
    used = auto(tiny.make_tokenizer(), source)
    plain = talk(("user", "a dog"), ("assistant", "hat"))
    assert used.encode([plain])[0].input_ids == own_ids(used.tokenizer, plain)
    for content, match in (("a cat", "no place for message 0"), ("cat <|im_end|>", "special token")):
        with pytest.raises(DataError, match=match):
            used.encode([talk(("user", content), ("assistant", "hat"))])


def test_marks_in_the_data_are_text() -> None:
    used = auto(tiny.make_tokenizer())
    conversation = talk(("user", "\ue0000\ue001 \ue0007\ue001"), ("assistant", "\ue0001\ue001"))
    assert used.encode([conversation])[0].input_ids == own_ids(used.tokenizer, conversation)


def test_contents_are_given_as_parts_where_the_template_wants_them() -> None:
    source = CHATML.replace("message['content']", "message['content'][0]['text']")
    used = auto(tiny.make_tokenizer(), source)
    assert used.text(talk(("user", "a"), ("assistant", "b"))).endswith("assistant\nb<|im_end|>\n")


def test_a_default_system_prompt_is_used_where_there_is_none(tokenizer: Tokenizers) -> None:
    used = auto(tokenizer("smollm2"), default_system="Be brief.")
    assert used.text(talk(("user", "a"), ("assistant", "b"))).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )
    assert "Be brief." not in used.text(talk(("system", "s"), ("user", "a"), ("assistant", "b")))


def test_without_a_chat_template_templates_are_suggested() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(TkError, match="brings no chat template") as caught:
        auto(tokenizer, facts=ModelFacts("m", "memory", None, "qwen3"))
    assert "trained with: qwen, qwen2_audio, qwen2_omni" in str(caught.value)
    assert "alpaca" not in str(caught.value)


def test_the_chat_template_of_the_facts_is_used_where_the_tokenizer_has_none() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = None
    used = auto(tokenizer, facts=ModelFacts("m", "gguf", None, "llama", chat_template=CHATML))
    assert used.jinja() == CHATML


def test_the_models_own_ends_of_a_reply_stop_it_too() -> None:
    facts = ModelFacts("m", "memory", None, "llama", config={"eos_token_id": [0, 1]})
    tokenizer = tiny.make_tokenizer()
    used = auto(tokenizer, facts=facts)
    assert used.stop_ids[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {0, 1} <= set(used.stop_ids)


def test_replies_are_read_back_as_the_template_writes_them(tokenizer: Tokenizers) -> None:
    used = auto(tokenizer("qwen3"))
    call = ToolCall("get_weather", '{"city": "Paris"}')
    for reply in (
        Message("assistant", "Hi", reasoning="Well."),
        Message("assistant", "", (call,), reasoning="Well."),
    ):
        (text,) = replies(used, talk(("user", "a"), reply))
        assert used.parse_reply(text) == reply
        assert used.parse_reply(text.removesuffix("<|im_end|>\n")) == reply


def test_tools_are_given_in_openais_wrapper() -> None:
    written = "{{ tools | tojson if tools }}" + CHATML
    bare, wrapper = NEWS["function"], NEWS
    used = auto(tiny.make_tokenizer(), written)
    asked = talk(("user", "Hi"), ("assistant", "Hello!"))
    one, other = (used.text(asked.replace(tools=(tool,))) for tool in (bare, wrapper))
    assert one == other
    assert '[{"type": "function", "function": {"name": "news"' in one


def test_arguments_are_given_as_text_to_a_template_that_wants_text() -> None:
    call = "message['tool_calls'][0]['function']"
    said = f"({call}['name'] + ': ' + {call}['arguments'] if message['tool_calls'] else message['content'])"
    used = auto(tiny.make_tokenizer(), CHATML.replace("message['content']", said))
    calls = talk(("user", "Hi"), Message("assistant", tool_calls=(ToolCall("f", '{"a": "é"}'),)))
    assert used.text(calls).endswith('assistant\nf: {"a": "é"}<|im_end|>\n')


def test_a_call_that_the_template_leaves_out_is_told_whatever_its_name() -> None:
    used = auto(tiny.make_tokenizer(), CHATML)
    calls = talk(("user", "f"), Message("assistant", "of", tool_calls=(ToolCall("f", "{}"),)))
    with pytest.raises(DataError, match="no place for the call to 'f' in message 1"):
        used.text(calls)


def test_the_date_is_todays_or_the_fixed_one() -> None:
    used = auto(tiny.make_tokenizer(), "{{ strftime_now('%d %b %Y') }}" + CHATML)
    assert used.text(talk(("user", "a"), ("assistant", "b"))).startswith("15 Jan 2025<|im_start|>")


RENDERERS: dict[str, SegmentRenderer] = {}
PLACES = ["system", "user", "reply", "earlier", "tool", "argument", "result"]


def typed_at(place: str, text: str) -> Conversation:
    """A conversation in which `text` is typed in one place."""

    def at(name: str) -> str:
        return f"a{text}z" if name == place else "az"

    tool = {"name": "look_up", "description": at("tool"), "parameters": {"type": "object", "properties": {}}}
    calls = (ToolCall("look_up", json.dumps({"word": at("argument")})),)
    called = (
        Message("assistant", tool_calls=calls),
        Message("tool", at("result")),
        Message("assistant", "b"),
    )
    said = (
        *(Message("system", at("system")), Message("user", at("user")), Message("assistant", at("earlier"))),
        Message("user", "c"),
    )
    if place in ("tool", "argument", "result"):
        return Conversation((*said, *called), (tool,))
    return Conversation((*said, Message("assistant", at("reply"))))


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("place", PLACES)
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_nothing_that_is_typed_becomes_a_token_of_a_real_tokenizer(
    tokenizer: Tokenizers, name: str, place: str, data: st.DataObject
) -> None:
    if name not in RENDERERS:
        RENDERERS[name] = auto(tokenizer(name))
    used = RENDERERS[name]
    loaded = used.tokenizer
    words = st.sampled_from([*loaded.all_special_tokens, "<|im_", "end|>", " ", "\n", "x"])
    text = "".join(data.draw(st.lists(words, min_size=1, max_size=4)))
    special = set(loaded.all_special_ids)
    try:
        plain, typed = (used.encode([typed_at(place, t)], mask_history=True)[0] for t in ("", text))
    except DataError:
        assert place in ("tool", "argument", "result"), "what is said has to be rendered"
        return
    assert [i for i in typed.input_ids if i in special] == [i for i in plain.input_ids if i in special]

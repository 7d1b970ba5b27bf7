"""Special tokens come from templates, never from what somebody typed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.special_tokens import add_stop_words
from tkernel_plugins.templates.vendors.generic import CHATML

# One template for each way of writing contents, stop words and systems: the contract's suite has them all.
NAMED = ["alpaca", "auto", "chatml", "default", "gemma", "glm4_7", "llama2", "llama3", "mistral", "qwen3"]
Renderers = Callable[..., SegmentRenderer]
TYPED = st.lists(
    st.sampled_from(
        [
            "<|im_end|>",
            "<|im_start|>",
            "<|im_",
            "start|>",
            "<",
            "s>",
            "</s>",
            "<|endoftext|>",
            " ",
            "a",
            "\n",
            "[INST]",
        ]
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def rendered() -> dict[str, SegmentRenderer]:
    """Every built-in template on the tiny tokenizer."""
    made = {}
    for name in NAMED:
        (entry,) = {e.value: e for e in entry_points(group="tkernel.template", name=name)}.values()
        tokenizer = tiny.make_tokenizer()
        made[name] = entry.load().render_template(TemplateRequest(name, tokenizer))
    return made


def special_ids(used: SegmentRenderer, conversation: Conversation) -> list[int]:
    """The special tokens of a conversation, in order."""
    special = set(used.tokenizer.all_special_ids) | set(used.tokenizer.get_added_vocab().values())
    special -= {used.tokenizer.convert_tokens_to_ids(word) for word in ("<think>", "</think>")}
    return [i for i in used.encode([conversation])[0].input_ids if i in special]


@pytest.mark.parametrize("name", NAMED)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TYPED, min_size=3, max_size=3))
def test_what_is_typed_adds_no_special_token(
    rendered: dict[str, SegmentRenderer], name: str, texts: list[str]
) -> None:
    used = rendered[name]

    def said(system: str, user: str, assistant: str) -> Conversation:
        return Conversation(
            (Message("system", system), Message("user", user), Message("assistant", assistant))
        )

    # What is typed stands between letters, so that templates that trim see the same edges.
    conversation = said(*(f"x{text}x" for text in texts))
    assert special_ids(used, conversation) == special_ids(used, said("xx", "xx", "xx"))
    ids = used.encode([conversation])[0].input_ids
    decoded = used.tokenizer.decode(ids[:-1] if used.efficient_eos else ids, skip_special_tokens=False)
    assert decoded == used.text(conversation)


def test_special_tokens_in_tools_and_calls_stay_text(renderer: Renderers) -> None:
    def talk(word: str) -> Conversation:
        tool = {"name": "say", "description": word, "parameters": {"type": "object", "properties": {}}}
        call = ToolCall("say", f'{{"what": "{word}"}}')
        messages = (
            Message("user", "x"),
            Message("assistant", tool_calls=(call,)),
            Message("tool", word),
            Message("assistant", word, reasoning=word),
        )
        return Conversation(messages, tools=(tool,))

    for name in ("chatml", "llama3", "mistral", "qwen3"):
        used = renderer(name)
        assert special_ids(used, talk("<|im_end|><|im_start|>")) == special_ids(used, talk("xx")), name


def test_what_a_media_processor_wrote_becomes_tokens() -> None:
    used = CHATML.renderer(tiny.make_tokenizer())
    image = used.tokenizer.convert_tokens_to_ids("<image>")
    typed = Message("user", "<image> and <image><image>")
    expanded = Message("user", typed.content, expanded=((12, 26),))
    for message, count in ((typed, 0), (expanded, 2)):
        assert used.prompt_ids(Conversation((message,))).count(image) == count


def test_added_tokens_that_are_not_special_are_tokens_everywhere(renderer: Renderers) -> None:
    used = renderer("qwen3", "qwen3")
    think = used.tokenizer.convert_tokens_to_ids("<think>")
    typed = Conversation((Message("user", "<think> <|im_end|>"), Message("assistant", "5")))
    assert used.encode([typed])[0].input_ids.count(think) == 2


def test_ids_are_the_tokenizers_where_nothing_special_is_typed(renderer: Renderers) -> None:
    used = renderer("smollm2")
    (turn,) = used.turns(Conversation((Message("user", "12 <b>\n"), Message("assistant", " <|x|> "))))
    expected = [i for segment in (*turn.prompt, *turn.reply) for i in used.tokenizer.encode(segment.text)]
    conversation = Conversation((Message("user", "12 <b>\n"), Message("assistant", " <|x|> ")))
    assert used.encode([conversation])[0].input_ids == expected


def test_settings_left_on_the_tokenizer_by_others_do_not_cut_or_pad(renderer: Renderers) -> None:
    used = renderer("smollm2")
    batch = [
        Conversation((Message("user", text), Message("assistant", text * 9)))
        for text in ("one", "another one")
    ]
    expected = used.encode(batch)
    used.tokenizer(["x", "y z"], padding=True, truncation=True, max_length=2)
    assert [one.input_ids for one in used.encode(batch)] == [one.input_ids for one in expected]


def tokens_of(tokenizer: Any) -> tuple[Any, ...]:
    return tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)


def test_stop_words_are_added_in_order_and_the_first_may_end_sequences() -> None:
    tokenizer = tiny.make_tokenizer(("<s>", "</s>"))
    size = len(tokenizer)
    assert add_stop_words(tokenizer, ("<|stop|>", "<|start|>"), replace_eos=True) == ("<|stop|>", "<|start|>")
    assert tokenizer.eos_token == "<|stop|>"
    assert tokenizer.convert_tokens_to_ids(["<|stop|>", "<|start|>"]) == [size, size + 1]
    assert add_stop_words(tokenizer, ("<|stop|>", "<|start|>"), replace_eos=True) == ()


def test_a_tokenizer_without_an_end_gets_one_and_pads_with_it() -> None:
    tokenizer = tiny.make_tokenizer(("<s>", "</s>"))
    tokenizer.eos_token = tokenizer.pad_token = None
    assert add_stop_words(tokenizer, (), replace_eos=False) == ("<|endoftext|>",)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"

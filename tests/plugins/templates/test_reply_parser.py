"""What a template writes for a reply, it reads back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from template_kit import ARGUMENTS, TEXTS, built_in, dump

from tkernel.rendering import SegmentRenderer
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel_plugins.templates.tool_formats import TOOL_FORMATS

Renderers = Callable[..., SegmentRenderer]
MANY = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
SAFE = TEXTS.filter(lambda text: text == text.strip() and "{" not in text)


def written(used: SegmentRenderer, reply: Message) -> str:
    """The reply's text, terminator included."""
    (turn,) = used.turns(Conversation((Message("user", "x"), reply)))
    return "".join(segment.text for segment in turn.reply)


@pytest.mark.parametrize(
    "name", ["alpaca", "chatml", "gemma", "glm4", "llama3", "mistral", "qwen3", "smollm2"]
)
@MANY
@given(data=st.data())
def test_replies_round_trip(renderer: Renderers, name: str, data: st.DataObject) -> None:
    used = renderer(name)
    reasoning = data.draw(st.one_of(st.none(), SAFE))
    if data.draw(st.booleans()) and not (reasoning and not built_in(name).text_before_calls):
        count = 1 if name == "glm4" or reasoning else data.draw(st.integers(1, 2))
        calls = tuple(ToolCall("get_weather", dump(data.draw(ARGUMENTS))) for _ in range(count))
        reply = Message("assistant", tool_calls=calls, reasoning=reasoning)
    else:
        reply = Message("assistant", data.draw(SAFE), reasoning=reasoning)
    text = written(used, reply)
    parsed = used.parse_reply(text)
    assert (parsed.content, parsed.reasoning or None) == (reply.content, reply.reasoning)
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == [
        (call.name, json.loads(call.arguments)) for call in reply.tool_calls
    ]
    assert written(used, parsed) == text
    stop = next((word for word in used.stop_words if word in text), None)
    if stop is not None:
        assert used.parse_reply(text.partition(stop)[0]) == parsed


def test_text_before_calls_is_kept(renderer: Renderers) -> None:
    text = 'Let me look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    parsed = renderer("qwen3_nothink").parse_reply(text)
    assert parsed.content == "Let me look.\n"
    assert parsed.tool_calls == (ToolCall("f", '{"a": 1}'),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<tool_call>\n{broken\n</tool_call>",
        '<tool_call>\n{"name": "f"}\n</tool_call>',
        "<think>\nnever ends",
        "5",
        "Total\n42",
    ],
)
@pytest.mark.parametrize("name", ["default", "glm4", "llama3", "mistral", "qwen3"])
def test_what_is_no_call_stays_text(renderer: Renderers, name: str, text: str) -> None:
    assert renderer(name).parse_reply(text) == Message("assistant", text)


def test_an_empty_thought_is_read_as_one(renderer: Renderers) -> None:
    parsed = renderer("qwen3").parse_reply("<think>\n\n</think>\n\nHi<|im_end|>\n")
    assert parsed == Message("assistant", "Hi", reasoning="")


# A string that is JSON as well (`12`) is read as its value where strings stand without quotes.
_PLAIN = st.sampled_from(["Paris", "two words", "line\nbreak", "Ω", ""])
_VALUES = st.dictionaries(st.sampled_from(["city", "n"]), st.one_of(st.integers(), _PLAIN, st.none()))


@pytest.mark.parametrize(
    "name",
    [
        *("bailing_v2", "gemma4", "glm4_moe", "lfm2", "minimax1", "minimax2"),
        *("phi4_mini", "qwen3_5", "seed_oss", "youtu"),
    ],
)
@MANY
@given(calls=st.lists(_VALUES, min_size=1, max_size=2), reasoning=st.none() | SAFE)
def test_calls_round_trip(
    renderer: Renderers, name: str, calls: list[dict[str, object]], reasoning: str | None
) -> None:
    used = renderer(name)
    reply = Message(
        "assistant", tool_calls=tuple(ToolCall("get_weather", dump(c)) for c in calls), reasoning=reasoning
    )
    parsed = used.parse_reply(written(used, reply))
    assert (parsed.content, parsed.reasoning or None) == ("", reasoning)
    assert [json.loads(call.arguments) for call in parsed.tool_calls] == calls


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    [
        "</tool_call>",
        "<tool_call>",
        "</tool_calls>",
        "Action: f",
        "Action Input: {}",
        'a "b" \\',
        "[1]",
        "\u2028",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["default", "glm4", "ling", "llama3", "minimax1", "mistral", "qwen"])
@settings(MANY, max_examples=200)
@given(arguments=st.lists(st.dictionaries(_TEXT, _JSON, max_size=3), min_size=1, max_size=2))
def test_formats_that_write_json_read_any_arguments(name: str, arguments: list[dict[str, object]]) -> None:
    used = TOOL_FORMATS[name]
    calls = [ToolCall("look-up", dump(a)) for a in arguments[: 1 if name == "glm4" else 2]]
    read = used.read(used.write(calls).text)
    assert read is not None
    assert [(call.name, json.loads(call.arguments)) for call in read[1]] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]


def test_tags_that_models_write_around_calls_are_read(renderer: Renderers) -> None:
    call = (ToolCall("f", '{"a": 1}'),)
    for name, text in (
        ("glm4_moe", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
        (
            "minimax2",
            '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n</minimax:tool_call>',
        ),
        (
            "seed_oss",
            "<seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
        ),
    ):
        assert renderer(name).parse_reply(text).tool_calls == call, name


QUOTED = st.text(st.sampled_from('"ab(),=[]\n'), max_size=8).filter(
    lambda text: '"' not in text or "=" not in text
)


@MANY
@given(values=st.lists(QUOTED, max_size=3), name=st.sampled_from(["f", "get-it.now"]))
def test_lfm2_reads_strings_with_quotes_that_it_wrote_as_they_are(values: list[str], name: str) -> None:
    lfm2 = TOOL_FORMATS["lfm2"]
    arguments = {f"k{number}": value for number, value in enumerate(values)}
    calls = [ToolCall(name, dump(arguments)), ToolCall("g", dump({"n": None, "l": ['a "b"']}))]
    ends_early = any(f'"{close}' in value for value in values for close in (")]", "), "))
    assume(not ends_early)
    assert lfm2.read("Well. " + lfm2.write(calls).text) == ("Well. ", calls)


def test_lfm2_reads_what_its_models_write_which_is_python() -> None:
    text = r"""<|tool_call_start|>[f(a='x', b=True, c="q\"q")]<|tool_call_end|>"""
    assert TOOL_FORMATS["lfm2"].read(text) == ("", [ToolCall("f", dump({"a": "x", "b": True, "c": 'q"q'}))])

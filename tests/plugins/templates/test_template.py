"""Templates as plugins: options, errors, and how messages of our own become what they write."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest

from tkernel.errors import DataError, TkError
from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.data.roles import from_llamafactory
from tkernel_plugins.templates.auto import TEMPLATE as AUTO
from tkernel_plugins.templates.options import TemplateOptions
from tkernel_plugins.templates.slots import BOS, CONTENT, EOS, Token
from tkernel_plugins.templates.template import Template
from tkernel_plugins.templates.vendors.generic import CHATML

Renderers = Callable[..., SegmentRenderer]
WORD = {"name": "look_up", "description": "d", "parameters": {"type": "object", "properties": {}}}


def ask(*messages: Message, tools: bool = False) -> Conversation:
    return Conversation(messages, tools=(WORD,) if tools else ())


def question(reply: Message) -> Conversation:
    return ask(Message("user", "a"), reply)


def test_the_options_default_system_replaces_the_templates(renderer: Renderers) -> None:
    conversation = question(Message("assistant", "b"))
    assert "SmolLM" in renderer("smollm2").text(conversation)
    assert (
        renderer("smollm2", default_system="Be brief.")
        .text(conversation)
        .startswith("<|im_start|>system\nBe brief.<|im_end|>")
    )
    assert renderer("smollm2", default_system="").text(conversation).startswith("<|im_start|>user")


def test_an_empty_system_prompt_is_none(renderer: Renderers) -> None:
    asked = (Message("system", ""), Message("user", "a"), Message("assistant", "b"))
    for name in ("smollm2", "chatml", "gemma", "alpaca"):
        assert renderer(name).text(Conversation(asked)) == renderer(name).text(Conversation(asked[1:]))


def test_an_empty_list_of_tools_opens_a_system_block(renderer: Renderers) -> None:
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": "[]",
    }
    text = renderer("chatml").text(Conversation.from_row(row))
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user")
    assert renderer("chatml").text(Conversation.from_row(row | {"tools": ""})).startswith("<|im_start|>user")


def test_an_empty_list_of_tools_is_no_text_where_systems_go_into_the_first_message() -> None:
    template = Template(name="mine", system_in_user=True)
    conversation = question(Message("assistant", "b")).replace(empty_tools=True)
    used = template.renderer(tiny.make_tokenizer())
    assert used.text(conversation) == used.text(conversation.replace(empty_tools=False))


def test_tools_follow_the_system_prompt_in_its_block(renderer: Renderers) -> None:
    asked = ask(Message("system", "Sys."), Message("user", "a"), Message("assistant", "b"), tools=True)
    assert renderer("qwen3").text(asked).startswith("<|im_start|>system\nSys.\n\n# Tools")
    assert "[INST] Sys.[AVAILABLE_TOOLS]" in renderer("mistral").text(asked)


def test_tool_format_overrides_how_tools_and_calls_are_written(renderer: Renderers) -> None:
    call = ToolCall("look_up", "{}")
    asked = ask(Message("user", "a"), Message("assistant", tool_calls=(call,)), tools=True)
    used = renderer("llama3", tool_format="qwen")
    assert '<tool_call>\n{"name": "look_up", "arguments": {}}\n</tool_call>' in used.text(asked)
    assert used.parse_reply('<tool_call>\n{"name": "look_up", "arguments": {}}\n</tool_call>').tool_calls == (
        call,
    )
    with pytest.raises(TkError, match="no tool format 'gpt'") as caught:
        CHATML.renderer(tiny.make_tokenizer(), TemplateOptions(tool_format="gpt"))
    assert "default, gemma4, glm4, glm4_moe" in str(caught.value)


def test_several_results_are_one_prompt(renderer: Renderers) -> None:
    calls = (ToolCall("look_up", "{}"), ToolCall("look_up", '{"b":1}'))
    asked = ask(
        *(Message("user", "a"), Message("assistant", tool_calls=calls)),
        *(Message("tool", "1"), Message("tool", "2"), Message("assistant", "b")),
    )
    text = renderer("qwen3_nothink").text(asked)
    assert "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>" in text
    assert '{"name": "look_up", "arguments": {"b": 1}}' in text
    with pytest.raises(DataError, match="one call in a message, not 2"):
        renderer("glm4").text(asked)


@pytest.mark.parametrize("name", ["gemma4", "glm4_moe", "lfm2", "minimax2", "qwen3_5", "seed_oss"])
def test_arguments_are_written_one_by_one(renderer: Renderers, name: str) -> None:
    arguments = '{"b": "x", "a": [1, true, null], "c": {"d": 2.5}}'
    reply = Message("assistant", tool_calls=(ToolCall("f", arguments), ToolCall("g", "{}")))
    parsed = renderer(name).parse_reply(renderer(name).text(question(reply)).rpartition("\n\na")[2])
    assert [call.name for call in parsed.tool_calls] == ["f", "g"]
    assert json.loads(parsed.tool_calls[0].arguments) == json.loads(arguments)
    if name != "gemma4":
        with pytest.raises(DataError, match="arguments of the call to 'f' are not a JSON object"):
            renderer(name).text(question(Message("assistant", tool_calls=(ToolCall("f", "[1]"),))))


@pytest.mark.parametrize(
    ("content", "qwen3", "glm4_7"),
    [
        ('<think>\nW.\n</think>\n\n{"name": "f", "arguments": {}}', "\n\n", ""),
        ('\n<think>\nW.\n</think>\n{"name": "f", "arguments": {}}', "\n\n", ""),
        ('<think>\nW.\n</think>\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>', "\n\n", "\n\n"),
    ],
)
def test_between_a_thought_and_calls_stands_what_llama_factory_writes(
    renderer: Renderers, content: str, qwen3: str, glm4_7: str
) -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "function", "content": content}]
    conversation = from_llamafactory(asked)
    assert f"<think>\nW.\n</think>{qwen3}<tool_call>\n{{" in renderer("qwen3").text(conversation)
    assert f"<think>\nW.\n</think>{glm4_7}\n<tool_call>f" in renderer("glm4_7").text(conversation)


def test_an_empty_list_of_tools_is_written_where_the_template_writes_lists(renderer: Renderers) -> None:
    conversation = question(Message("assistant", "b")).replace(empty_tools=True)
    assert "<|system|><|tool|>[]<|/tool|><|end|>" in renderer("phi4_mini").text(conversation)


def test_a_thought_in_other_words_before_a_call_is_content(renderer: Renderers) -> None:
    reply = Message("assistant", "<think>\nWell.\n</think>", (ToolCall("look_up", "{}"),))
    assert "</think>Action: look_up" in renderer("kimi_vl").text(question(reply))
    apart = replace(reply, content=f"{reply.content}\n\n")
    assert "</think>\n\nAction: look_up" in renderer("kimi_vl").text(question(apart))
    apart = replace(reply, content="", reasoning="Well.")
    assert "◁think▷Well.◁/think▷Action: look_up" in renderer("kimi_vl").text(question(apart))


def test_tools_alone_begin_without_blank_lines_where_the_template_says_so(renderer: Renderers) -> None:
    asked = ask(Message("user", "a"), Message("assistant", "b"), tools=True)
    assert "system\n\n\n# Tools" in renderer("qwen3_nothink").text(asked)
    assert "system\n# Tools" in renderer("moss_vl").text(asked)
    told = asked.replace(messages=(Message("system", "S."), *asked.messages))
    assert "system\nS.\n\n# Tools" in renderer("moss_vl").text(told)


def test_arguments_that_are_not_json_are_a_data_error(renderer: Renderers) -> None:
    reply = Message("assistant", tool_calls=(ToolCall("look_up", "{"),))
    with pytest.raises(DataError, match="arguments of the call to 'look_up' are not JSON"):
        renderer("qwen3").encode([question(reply)])


def test_reasoning_is_written_between_the_thought_words(renderer: Renderers) -> None:
    apart = question(Message("assistant", "b", reasoning="Well."))
    within = question(Message("assistant", "<think>\nWell.\n</think>\n\nb"))
    for name in ("chatml", "qwen3"):
        assert renderer(name).encode([apart]) == renderer(name).encode([within])
    assert "Well." not in renderer("qwen3", enable_thinking=False).text(apart)


def test_a_thought_may_come_before_a_call(renderer: Renderers) -> None:
    reply = Message("assistant", "", (ToolCall("look_up", "{}"),), reasoning="Well.")
    (turn,) = renderer("qwen3").turns(question(reply))
    assert turn.reply[0].text.startswith("<think>\nWell.\n</think>\n\n<tool_call>")


def test_prompts_leave_out_earlier_thoughts_unless_they_are_preserved(renderer: Renderers) -> None:
    asked = ask(Message("user", "a"), Message("assistant", "b", reasoning="Well."), Message("user", "c"))

    def prompt(**options: bool) -> str:
        used = renderer("qwen3", **options)
        return str(used.tokenizer.decode(used.prompt_ids(asked)))

    assert "Well." not in prompt()
    assert "Well." in prompt(preserve_thinking=True)
    assert prompt(enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")


def test_slots_are_text_tokens_and_the_tokenizers_own_ends() -> None:
    template = Template(
        name="mine", prefix=(BOS,), user=(Token("<|user|>"), "\n", CONTENT), assistant=(CONTENT, EOS)
    )
    tokenizer = tiny.make_tokenizer()
    used = template.renderer(tokenizer)
    (turn,) = used.turns(question(Message("assistant", "b")))
    assert [(s.text, s.special) for s in (*turn.prompt, *turn.reply)] == [
        *((tokenizer.bos_token, True), ("<|user|>", True), ("\n", False), ("a", False)),
        *(("b", False), (tokenizer.eos_token, True)),
    ]
    assert used.stop_words == (tokenizer.eos_token,)
    without = tiny.make_tokenizer()
    without.bos_token = None
    (turn,) = template.renderer(without).turns(question(Message("assistant", "b")))
    assert turn.prompt[0].text == "<|user|>"


def test_a_token_that_the_tokenizer_lacks_is_an_error() -> None:
    template = Template(name="mine", user=(Token("<|nowhere|>"), CONTENT))
    tokenizer = tiny.make_tokenizer()
    tokenizer.unk_token = None
    with pytest.raises(TkError, match=r"no token '<\|nowhere\|>'"):
        template.renderer(tokenizer).encode([question(Message("assistant", "b"))])


def test_the_terminator_comes_first_among_the_stop_words(renderer: Renderers) -> None:
    assert renderer("smollm2").stop_words == ("<|im_end|>",)
    assert renderer("chatml").stop_words == ("<|im_end|>", "<|im_start|>")
    assert renderer("llama3").stop_words == ("<|eot_id|>", "<|eom_id|>")
    assert renderer("glm4").stop_words == ("<|im_end|>", "<|user|>", "<|observation|>")


def test_a_variant_is_a_replaced_value() -> None:
    shouting = replace(CHATML, name="shouting", default_system="SHOUT")
    text = shouting.renderer(tiny.make_tokenizer()).text(question(Message("assistant", "b")))
    assert text.startswith("<|im_start|>system\nSHOUT")


@pytest.mark.parametrize("plugin", [CHATML, AUTO])
def test_renderers_can_be_sent_to_other_processes(plugin: Template) -> None:
    tokenizer = tiny.make_tokenizer()
    request = TemplateRequest(plugin.name, tokenizer, ModelFacts("m", "memory", None, "llama"))
    used = plugin.render_template(request)
    batch = [question(Message("assistant", "<|im_end|> b"))]
    expected = used.encode(batch)
    assert pickle.loads(pickle.dumps(used)).encode(batch) == expected

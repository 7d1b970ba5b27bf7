"""A reply read while it streams is the one that is read whole, wherever its pieces begin and end."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest

from tkernel.errors import DataError
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel_plugins.serving.reply_parts import Marks, ReplyParts
from tkernel_plugins.templates.options import TemplateOptions

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALLS = (ToolCall("get_weather", '{"city": "Rome"}'),)


def read(renderer, pieces, tools):
    """Thought, content and calls of a reply that comes in `pieces`."""
    parts = ReplyParts(renderer, Marks.of(renderer), tools)
    messages = [message for piece in pieces for message in parts.feed(piece)] + list(parts.finish())
    calls = [(c.name, json.loads(c.arguments)) for message in messages for c in message.tool_calls]
    thought = "".join(message.reasoning or "" for message in messages)
    return thought, "".join(message.content for message in messages), calls


@pytest.mark.parametrize("template", ["qwen3", "deepseekr1", "glm4_moe", "llama3", "mistral", "seed_oss"])
@pytest.mark.parametrize(
    "reply",
    [
        Message("assistant", "Yes, it is.\n\nAnd warm."),
        Message("assistant", "Yes, it is.", reasoning="Is it?\n\nLet me think."),
        Message("assistant", "", tool_calls=CALLS),
        Message("assistant", "", reasoning="I ask.", tool_calls=CALLS),
    ],
    ids=["words", "thought", "call", "thought-call"],
)
def test_pieces_of_any_length_give_the_same(template, reply):
    (entry,) = entry_points(group="tkernel.template", name=template)
    renderer = entry.load().renderer(tiny.make_tokenizer(), TemplateOptions())
    tools = (TOOL,) if reply.tool_calls else ()
    try:
        turn = renderer.turns(Conversation((Message("user", "How is it?"), reply), tools))[-1]
    except DataError:
        pytest.skip("the template has no place for a thought before calls")
    text = "".join(segment.text for segment in turn.reply)
    for token in renderer.stop_ids:
        text = text.partition(renderer.tokenizer.decode([token]))[0]
    said = renderer.parse_reply(text)
    calls = [(call.name, json.loads(call.arguments)) for call in said.tool_calls]
    expected = (said.reasoning or "", said.content, calls)
    assert read(renderer, [text], bool(tools)) == expected
    assert read(renderer, list(text), bool(tools)) == expected
    for cut in range(1, len(text)):
        assert read(renderer, [text[:cut], text[cut:]], bool(tools)) == expected, text[:cut]

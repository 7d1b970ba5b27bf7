"""LLaMA-Factory's roles become canonical conversations."""

from __future__ import annotations

import pytest

from tkernel.errors import DataError
from tkernel.types.conversation import ToolCall
from tkernel_plugins.data.roles import from_llamafactory


def function(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "a"}, {"role": "function", "content": content}]


@pytest.mark.parametrize(
    ("content", "said", "calls"),
    [
        ('{"name": "f", "arguments": {"a": "ü"}}', "", [("f", '{"a": "ü"}')]),
        (
            '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": [1]}]',
            "",
            [("f", "{}"), ("g", "[1]")],
        ),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [("f", '"{\\"a\\": 1}"')]),
        (
            '<think>\nW{ll\n</think>\n\n{"name": "f", "arguments": {}}',
            "<think>\nW{ll\n</think>",
            [("f", "{}")],
        ),
        ('◁think▷[W]◁/think▷[{"name": "f", "arguments": {}}]', "◁think▷[W]◁/think▷", [("f", "{}")]),
        (
            'Look: <|tool_call_start|>{"name": "f", "arguments": {}}<|tool_call_end|>',
            "Look: ",
            [("f", "{}")],
        ),
        ('Look: <tool_call>{"name": "f", "arguments": {}}</tool_call>', "Look: ", [("f", "{}")]),
    ],
)
def test_calls_are_taken_out_of_function_messages(
    content: str, said: str, calls: list[tuple[str, str]]
) -> None:
    message = from_llamafactory(function(content)).messages[-1]
    assert (message.role, message.content) == ("assistant", said)
    assert message.tool_calls == tuple(ToolCall(*call) for call in calls)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("no JSON", "message 1 should hold calls as JSON"),
        ('{"name": "f"}', "message 1: a call needs `name` and `arguments`"),
        ("[1]", "message 1: a call needs"),
    ],
)
def test_broken_calls_name_the_message(content: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        from_llamafactory(function(content))


def test_systems_and_tools() -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "observation", "content": "b"}]
    assert [m.role for m in from_llamafactory(asked, "S").messages] == ["system", "user", "tool"]
    assert from_llamafactory(asked, "").system is None
    assert from_llamafactory(asked, tools='[{"name": "f"}]').tools == ({"name": "f"},)
    assert from_llamafactory(asked, tools="[]").empty_tools
    assert not from_llamafactory(asked, tools="").empty_tools
    with pytest.raises(DataError, match="tools are not JSON"):
        from_llamafactory(asked, tools="{")
    with pytest.raises(DataError, match="message 0 has the unknown role 'narrator'"):
        from_llamafactory([{"role": "narrator", "content": ""}])

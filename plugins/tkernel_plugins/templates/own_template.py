"""A tokenizer's own Jinja chat template as turns of typed segments.

The template is rendered with marks in place of what the data says: where a mark comes out again is where
that text belongs, so special tokens typed there can be told from the template's own. Where a reply begins
and ends comes from rendering the conversation up to it, with and without the reply. A layout depends only
on the shape of a conversation and is reused for others of the same shape, after checking that filling it
in gives exactly what the template renders for this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.templates.text import Text

_MARK = re.compile("\ue000(\\d+)\ue001")
_THOUGHT = re.compile(r"\A\s*<think>\n?(.*?)\n?</think>\n*", re.DOTALL)
_SHAPES = 1024
_ADVICE = "Name a template that writes it (`template: ...`; `tk plugins list template` shows them)"
_LAST_ONLY = "set `mask_history: true` to learn last replies only"


@dataclass
class Sheet:
    """A conversation as the template takes it: dicts, with `values` in place of what is marked in them.

    `values[n]` is what mark `n` stands for and the position of its message (-1: tools).
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[Any] | None = None
    values: list[tuple[Text, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """A rendered text and, for each assistant message, where it begins and ends in it; None: unclear."""

    text: str
    replies: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class OwnTemplate:
    """The chat template of `tokenizer`.

    Args:
        tokenizer: has a `chat_template`.
        variables: what the template is rendered with beside messages and tools (`enable_thinking`).
        default_system: the system prompt of conversations that have none.
        special: matches every special token of the tokenizer.
        reasoning_key: the key of a message under which the template looks for its thought; None: nowhere.
        parts: the template wants contents as lists of parts.
    """

    tokenizer: Any
    variables: Mapping[str, Any]
    default_system: str | None
    special: re.Pattern[str]
    reasoning_key: str | None = None
    parts: bool = False
    _layouts: dict[str, Layout] = field(default_factory=dict, repr=False, compare=False)

    # -- what a renderer needs ---------------------------------------------------------------------

    def every_turn(self, conversation: Conversation) -> list[Turn]:
        """All turns. The text is the template's for the whole conversation.

        Raises:
            DataError: the template refuses the conversation, leaves out something that would be learned,
                or writes an earlier part differently once more follows.
        """
        return self._turns(conversation, every=True)

    def last_turn(self, conversation: Conversation) -> list[Turn]:
        """All turns where only the last reply matters: earlier ones may be without their thoughts, or be
        part of a prompt where they cannot be told from it."""
        return self._turns(conversation, every=False)

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """All that comes before the reply to the last message, in the segments of `last_turn`."""
        if conversation.messages and conversation.messages[-1].role == "assistant":
            *earlier, last = self.last_turn(conversation)
            return [s for turn in earlier for s in (*turn.prompt, *turn.reply)] + list(last.prompt)
        texts, _ = self._parts(conversation, waiting=True, every=False)
        return [text.segment("user") for text in texts if text]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Any,
        waiting: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """What the template makes of `messages`; `waiting`: followed by the opening of a reply."""
        import jinja2

        variables = self.variables if variables is None else variables

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=waiting, tokenize=False, **variables
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(f"the model's chat template refuses the conversation: {error}") from error
        return text

    # -- conversations -> parts --------------------------------------------------------------------

    def _turns(self, conversation: Conversation, every: bool) -> list[Turn]:
        if not conversation.messages or conversation.messages[-1].role != "assistant":
            raise DataError("the conversation does not end with an assistant message")
        texts, owners = self._parts(conversation, waiting=False, every=every)
        turns = []
        for prompt, reply, owner in zip(texts[::2], texts[1::2], owners, strict=True):
            turns.append(
                Turn(
                    prompt=(prompt.segment("user"),) if prompt else (),
                    reply=(reply.segment("assistant"),) if reply else (),
                    trained=owner.train,
                    weight=owner.weight,
                )
            )
        return turns

    def _parts(
        self, conversation: Conversation, waiting: bool, every: bool
    ) -> tuple[list[Text], list[Message]]:
        """The text cut into prompt, reply, prompt, ... and the messages that are the replies."""
        if self.default_system and conversation.system is None:
            system = Message("system", self.default_system)
            conversation = conversation.replace(messages=(system, *conversation.messages))
        plain = self._sheet(conversation, lambda text, *_, **__: text, split=False)
        rendered = self.render(plain.messages, plain.tools, waiting)
        marked = self._marked(conversation)
        layout = self._cached_layout(marked, waiting)
        filled = _fill(layout.text, marked.values)
        shift = _Shift(layout.text, marked.values)
        if filled.text != rendered or "\ue000" in json.dumps(plain.messages, ensure_ascii=False):
            # The template looks into contents: this conversation has a layout of its own, without marks.
            self._refuse_special(marked)
            layout, filled, shift = self._layout(plain, waiting), Text(rendered), _Shift("", [])
        self._check(conversation, layout, filled, marked.values, shift, waiting, every)
        assistants = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
        cuts, owners = [0], []
        for position, span in zip(assistants, layout.replies, strict=True):
            if span is not None:
                cuts += [shift(span[0]), shift(span[1])]
                owners.append(conversation.messages[position])
        cuts.append(len(rendered))
        texts = [filled.part(start, end) for start, end in pairwise(cuts)]
        if not waiting:
            texts.pop()  # nothing follows the last reply
        return texts, owners

    def _refuse_special(self, sheet: Sheet) -> None:
        for value, owner in sheet.values:
            if found := self.special.search(value.text):
                where = f"message {owner}" if owner >= 0 else "a tool"
                raise DataError(
                    f"{where} spells the special token {found[0]!r}, and the model's chat template rewrites the "
                    "conversation so that it cannot be told from the template's own",
                    hint="Take it out, or name a template (`template: ...`).",
                )

    def _check(
        self,
        conversation: Conversation,
        layout: Layout,
        filled: Text,
        values: Sequence[tuple[Text, int]],
        shift: Callable[[int], int],
        waiting: bool,
        every: bool,
    ) -> None:
        """Raise if a message or a tool is missing, or a reply that is to be learned has no clear place."""
        last = len(conversation.messages) - 1
        assistants = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
        for position, span in zip(assistants, layout.replies, strict=True):
            message = conversation.messages[position]
            needed = not waiting and (position == last or (every and message.train is not False))
            if span is None and needed:
                change = "what comes before the last reply" if position == last else f"message {position}"
                raise DataError(
                    f"the model's chat template writes {change} differently once more follows it, so that it "
                    "cannot be learned as it will be generated",
                    hint=_ADVICE + (f", or {_LAST_ONLY}." if position != last else "."),
                )
            if span is None:
                continue
            reply = filled.text[shift(span[0]) : shift(span[1])]
            said = [value.text for value, owner in values if owner == position]
            if needed and not all(text in reply for text in said):
                raise DataError(
                    f"the model's chat template leaves out the thought of message {position}, or a part of it",
                    hint=f"{_ADVICE}, or {_LAST_ONLY}.",
                )
            for call in message.tool_calls:
                if call.name not in reply:
                    raise DataError(
                        f"the model's chat template has no place for the call to {call.name!r} in message "
                        f"{position}",
                        hint=f"{_ADVICE}.",
                    )
        for position, message in enumerate(conversation.messages):
            is_reply = message.role == "assistant"
            core = (_split_thought(message.content)[1] if is_reply else message.content).strip()
            if core not in filled.text and json.dumps(core, ensure_ascii=False)[1:-1] not in filled.text:
                raise DataError(
                    f"the model's chat template has no place for message {position} (role {message.role!r})",
                    hint=f"{_ADVICE}.",
                )
        for tool in conversation.tools:
            name = tool.get("function", tool).get("name", "")
            if name not in filled.text:
                raise DataError(
                    f"the model's chat template has no place for tools ({name!r} is missing)",
                    hint=f"{_ADVICE}.",
                )

    # -- layouts -----------------------------------------------------------------------------------

    def _cached_layout(self, sheet: Sheet, waiting: bool) -> Layout:
        shape = json.dumps([sheet.messages, sheet.tools, waiting])
        if shape not in self._layouts:
            if len(self._layouts) >= _SHAPES:
                self._layouts.clear()
            self._layouts[shape] = self._layout(sheet, waiting)
        return self._layouts[shape]

    def _layout(self, sheet: Sheet, waiting: bool) -> Layout:
        text = self.render(sheet.messages, sheet.tools, waiting)
        spans = []
        for position, message in enumerate(sheet.messages):
            if message["role"] == "assistant":
                spans.append(self._span(sheet, position, text, waiting))
        return Layout(text, tuple(spans))

    def _span(self, sheet: Sheet, position: int, text: str, waiting: bool) -> tuple[int, int] | None:
        """Where the reply at `position` stands in `text`, from after the prompt to after its terminator."""
        messages, tools = sheet.messages, sheet.tools
        is_last = position == len(messages) - 1 and not waiting
        prompt = self.render(messages[:position], tools, True) if position else ""
        if not text.startswith(prompt) and not is_last:
            # The opening of a new reply may hold an empty thought that earlier replies go without.
            prompt = self.render(messages[:position], tools, True, {})
        if not text.startswith(prompt):
            return None
        start = len(prompt)
        if is_last:
            return start, len(text)
        whole = self.render(messages[: position + 1], tools, False)
        if text.startswith(whole):
            return start, len(whole)
        # An earlier reply may be written without its thought: what is left of it is an end of the whole.
        content = _MARK.search(json.dumps(messages[position]["content"], ensure_ascii=False))
        said = content[0] if content else ""
        for cut in range(start, len(whole) - 1):
            left = whole[cut:]
            if said not in left:
                return None
            if text.startswith(left, start):
                return start, start + len(left)
        return None

    # -- conversations -> what templates take ------------------------------------------------------

    def _marked(self, conversation: Conversation) -> Sheet:
        sheet = Sheet()

        def mark(text: str, position: int, leaf: bool = False, own: tuple[tuple[int, int], ...] = ()) -> str:
            core = text.strip()
            if not core or (leaf and not self.special.search(text)):
                return text
            start = text.index(core)
            end = start + len(core)
            value = Text.of_data(text, own).part(start, end)
            if leaf:
                value = Text.of_data(json.dumps(core, ensure_ascii=False)[1:-1])
            sheet.values.append((value, position))
            return f"{text[:start]}\ue000{len(sheet.values) - 1}\ue001{text[end:]}"

        made = self._sheet(conversation, mark, split=True)
        sheet.messages, sheet.tools = made.messages, made.tools
        return sheet

    def _sheet(self, conversation: Conversation, mark: Callable[..., str], split: bool) -> Sheet:
        """The conversation as dicts, `mark` applied to every text; `split`: thoughts taken out of contents."""
        thinking = self.variables.get("enable_thinking")
        messages: list[dict[str, Any]] = []
        calls = answered = 0
        for position, message in enumerate(conversation.messages):
            content, reasoning = message.content, message.reasoning
            if message.role == "assistant":
                inner, rest = _split_thought(content)
                if thinking is False:
                    content, reasoning = rest, None
                elif split and inner and not reasoning and not message.expanded:
                    content, reasoning = rest, inner
            made: dict[str, Any] = {"role": message.role}
            thought = mark(reasoning, position) if reasoning else None
            own = message.expanded if content == message.content else ()
            text = mark(content, position, own=own)
            if thought and self.reasoning_key:
                made[self.reasoning_key] = thought
            elif thought:
                text = f"<think>\n{thought}\n</think>\n\n{text}"
            made["content"] = [{"type": "text", "text": text}] if self.parts else text
            if message.tool_calls:
                made["tool_calls"] = []
                for call in message.tool_calls:
                    arguments = _map_leaves(_parsed(call.arguments), lambda t: mark(t, position, leaf=True))  # noqa: B023
                    function = {"name": call.name, "arguments": arguments}
                    made["tool_calls"].append(
                        {"id": f"call{calls:05d}", "type": "function", "function": function}
                    )
                    calls += 1
            if message.role == "tool" and answered < calls:
                made["tool_call_id"] = f"call{answered:05d}"
                answered += 1
            messages.append(made)
        tools = [_map_leaves(tool, lambda text: mark(text, -1, leaf=True)) for tool in conversation.tools]
        return Sheet(messages, tools or None)


class _Shift:
    """From positions in a marked text to positions in the filled one."""

    def __init__(self, text: str, values: Sequence[tuple[Text, int]]) -> None:
        self._moves = [
            (mark.end(), len(values[int(mark[1])][0].text) - len(mark[0])) for mark in _MARK.finditer(text)
        ]

    def __call__(self, position: int) -> int:
        return position + sum(move for end, move in self._moves if end <= position)


def _fill(text: str, values: Sequence[tuple[Text, int]]) -> Text:
    """A marked text with the values in place of the marks; they are typed, the rest is the template's own."""
    filled, position = Text(), 0
    for mark in _MARK.finditer(text):
        filled = filled + text[position : mark.start()] + values[int(mark[1])][0]
        position = mark.end()
    return filled + text[position:]


def _split_thought(content: str) -> tuple[str, str]:
    """A thought at the start of a reply, and the rest."""
    thought = _THOUGHT.match(content)
    return (thought[1], content[thought.end() :]) if thought else ("", content)


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except json.JSONDecodeError as error:
        raise DataError(f"the arguments of a call are not JSON: {error}: {arguments!r}") from error


def _map_leaves(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with `change` applied to every string that is not a key."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_leaves(item, change) for item in value]
    return value

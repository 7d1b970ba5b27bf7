"""A Jinja chat template, the tokenizer's own or a user's, as turns of typed segments.

The text is what the template renders. A layout of it, with marks for what the data says, depends only on
the shape of a conversation and serves others of the same shape, after checking that filling it in gives
exactly what the template renders for this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.data.today import today
from tkernel_plugins.templates.jinja_file import line_of
from tkernel_plugins.templates.layout import Layout, LayoutFinder
from tkernel_plugins.templates.sheets import (
    MARK_START,
    TOOLS,
    Sheet,
    SheetMaker,
    Value,
    fill,
    mark_of,
    shifted,
)
from tkernel_plugins.templates.text import Text

_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_SHAPES = 1024
_NAME_ANOTHER = "Name a template that can (`template: ...`; `tk plugins list template` shows them)"
_LAST_ONLY = "set `mask_history: true` to learn last replies only"


@dataclass(frozen=True)
class OwnTemplate:
    """A chat template.

    Args:
        tokenizer: what it is rendered with.
        jinja: the chat template's text.
        thinking: given to the template as `enable_thinking`; None: not given. False leaves thoughts out.
        default_system: the system prompt of conversations that have none.
        reasoning_key: the key of a message under which the template looks for its thought; None: nowhere,
            and thoughts are written into the content.
        parts: the template wants contents as lists of parts.
        text_arguments: it wants the arguments of calls as JSON text, as in OpenAI's protocol.
    """

    tokenizer: Any
    jinja: str
    thinking: bool | None = None
    default_system: str | None = None
    reasoning_key: str | None = None
    parts: bool = False
    text_arguments: bool = False
    _layouts: dict[str, Layout] = field(default_factory=dict, repr=False, compare=False)

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
        self, messages: Sequence[Mapping[str, Any]], tools: Any, waiting: bool, bare: bool = False
    ) -> str:
        """What the template makes of `messages`; `waiting`: followed by the opening of a reply; `bare`:
        without `enable_thinking`."""
        variables = {} if bare or self.thinking is None else {"enable_thinking": self.thinking}
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                chat_template=_NOW.sub(lambda call: repr(today().strftime(call[2])), self.jinja),
                add_generation_prompt=waiting,
                tokenize=False,
                **variables,
            )
        except Exception as error:  # a chat template is a program, and may raise anything
            line = line_of(error)
            where = "" if line is None else f" in line {line}"
            told = str(error) or type(error).__name__
            raise DataError(f"the chat template refuses the conversation{where}: {told}") from error
        return text

    @cached_property
    def special(self) -> re.Pattern[str]:
        """Matches every special token."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        return re.compile(_alternatives(special) or r"(?!)")

    @cached_property
    def tokens(self) -> re.Pattern[str]:
        """Matches every added token, special or not."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        names = {token.content for token in added} | set(self.tokenizer.all_special_tokens)
        return re.compile(_alternatives(name for name in names if name.strip()) or r"(?!)")

    def holds_token(self, text: str) -> bool:
        """Whether `text` spells an added token."""
        return self.tokens.search(text) is not None

    @cached_property
    def _sheets(self) -> SheetMaker:
        return SheetMaker(self.special, self.reasoning_key, self.parts, self.thinking, self.text_arguments)

    @cached_property
    def _finder(self) -> LayoutFinder:
        units = re.compile(f"{self.tokens.pattern}|.", re.DOTALL)
        return LayoutFinder(self.render, units, self.holds_token)

    # -- conversations -> parts --------------------------------------------------------------------

    def _turns(self, conversation: Conversation, every: bool) -> list[Turn]:
        if not conversation.messages or conversation.messages[-1].role != "assistant":
            raise DataError("the conversation does not end with an assistant message")
        texts, replies = self._parts(conversation, waiting=False, every=every)
        return [
            Turn(
                prompt=(prompt.segment("user"),) if prompt else (),
                reply=(answer.segment("assistant"),) if answer else (),
                trained=reply.train,
                weight=reply.weight,
            )
            for prompt, answer, reply in zip(texts[::2], texts[1::2], replies, strict=True)
        ]

    def _parts(
        self, conversation: Conversation, waiting: bool, every: bool
    ) -> tuple[list[Text], list[Message]]:
        """The text cut into prompt, reply, prompt, ... and the messages that are the replies."""
        if self.default_system and conversation.system is None:
            system = Message("system", self.default_system)
            conversation = conversation.replace(messages=(system, *conversation.messages))
        plain = self._sheets.plain(conversation)
        rendered = self.render(plain.messages, plain.tools, waiting)
        marked = self._sheets.marked(conversation)
        layout = self._layout(marked, waiting)
        filled = fill(layout.text, marked.values)
        needles: dict[Value, tuple[str, ...]] = {
            value: (mark_of(number),) for number, value in enumerate(marked.values)
        }
        if filled.text != rendered or MARK_START in rendered:
            # The template looks into contents: this conversation has a layout of its own, without marks.
            _refuse_special(marked.values, self.special)
            needles = {value: _spellings(value) for value in marked.values}
            present = _needles(plain, [(v.message, n[0]) for v, n in needles.items() if v.part == "content"])
            layout = self._finder.find(plain, waiting, present)
            filled, cuts = Text(rendered), _cuts(layout)
        else:
            cuts = shifted(layout.text, marked.values, _cuts(layout))
        _check(conversation, layout, needles, waiting, every)
        assistants = [message for message in conversation.messages if message.role == "assistant"]
        replies = [m for m, span in zip(assistants, layout.replies, strict=True) if span is not None]
        edges = [0, *cuts, len(rendered)] if waiting else [0, *cuts]
        return [filled.part(start, end) for start, end in pairwise(edges)], replies

    def _layout(self, sheet: Sheet, waiting: bool) -> Layout:
        """The layout of a marked conversation, found once for each shape."""
        shape = json.dumps([sheet.messages, sheet.tools, waiting])
        if shape not in self._layouts:
            if len(self._layouts) >= _SHAPES:
                self._layouts.clear()
            marks = [(v.message, mark_of(n)) for n, v in enumerate(sheet.values) if v.part == "content"]
            self._layouts[shape] = self._finder.find(sheet, waiting, _needles(sheet, marks))
        return self._layouts[shape]


def _alternatives(names: Iterable[str]) -> str:
    """A pattern that matches any of `names`, the longest first."""
    return "|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True)))


def _cuts(layout: Layout) -> list[int]:
    return [edge for span in layout.replies if span is not None for edge in span]


def _needles(sheet: Sheet, contents: Iterable[tuple[int, str]]) -> list[list[str]]:
    """For each message the texts that it cannot be without: its content and the names of what it calls."""
    needles: list[list[str]] = [
        [call["function"]["name"] for call in message.get("tool_calls", ())] for message in sheet.messages
    ]
    for message, text in contents:
        needles[message].append(text)
    return needles


def _spellings(value: Value) -> tuple[str, ...]:
    """How a value may be written where the template is not rendered with marks."""
    return value.text.text, json.dumps(value.text.text, ensure_ascii=False)[1:-1]


def _refuse_special(values: Sequence[Value], special: re.Pattern[str]) -> None:
    for value in values:
        if found := special.search(value.text.text):
            where = "a tool" if value.message == TOOLS else f"message {value.message}"
            raise DataError(
                f"{where} spells the special token {found[0]!r}, and the chat template rewrites the "
                "conversation so that it cannot be told from the template's own",
                hint="Take it out, or name a template (`template: ...`).",
            )


def _check(
    conversation: Conversation,
    layout: Layout,
    needles: Mapping[Value, tuple[str, ...]],
    waiting: bool,
    every: bool,
) -> None:
    """Raise if something is missing, or if a reply that is to be learned has no clear place."""
    last = len(conversation.messages) - 1
    assistants = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    spans = dict(zip(assistants, layout.replies, strict=True))
    for value, spellings in needles.items():
        in_call = value.part == "name" and value.message != TOOLS
        if value.part == "thought" or in_call or any(text in layout.text for text in spellings):
            continue
        what = f"tools ({value.text.text[:60]!r} is missing)"
        if value.message != TOOLS:
            role = conversation.messages[value.message].role
            what = f"message {value.message} (role {role!r}), or for a part of it"
        raise DataError(f"the chat template has no place for {what}", hint=f"{_NAME_ANOTHER}.")
    for position, span in spans.items():
        message = conversation.messages[position]
        learned = not waiting and (position == last or (every and message.train is not False))
        written = layout.text if span is None else layout.text[slice(*span)]
        for value, spellings in needles.items():
            calls = value.message == position and value.part == "name"
            if calls and not any(text in written for text in spellings):
                raise DataError(
                    f"the chat template has no place for the call to {value.text.text!r} in message {position}",
                    hint=f"{_NAME_ANOTHER}.",
                )
        if not learned:
            continue
        said = [spellings for value, spellings in needles.items() if value.message == position]
        if not all(any(text in written for text in spellings) for spellings in said):
            raise DataError(
                f"the chat template leaves out the thought of message {position}, or a part of it",
                hint=_NAME_ANOTHER + ("." if position == last else f", or {_LAST_ONLY}."),
            )
        if span is None:
            change = "what comes before the last reply" if position == last else f"message {position}"
            raise DataError(
                f"the chat template writes {change} differently once more follows it, so that it "
                "cannot be learned as it will be generated",
                hint=_NAME_ANOTHER + ("." if position == last else f", or {_LAST_ONLY}."),
            )

"""Where the replies stand in a rendered conversation, found by rendering it up to each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tkernel_plugins.templates.sheets import Sheet

Span = tuple[int, int]


class Render(Protocol):
    """Messages -> text; `waiting`: followed by the opening of a reply; `bare`: without the run's variables."""

    def __call__(
        self, messages: Sequence[dict[str, Any]], tools: Any, waiting: bool, bare: bool = False
    ) -> str: ...


@dataclass(frozen=True)
class Layout:
    """A rendered text and, for each reply in it, where it begins and ends; None where that is unclear."""

    text: str
    replies: tuple[Span | None, ...]


@dataclass(frozen=True)
class LayoutFinder:
    """Finds layouts.

    Args:
        render: renders the chat template.
        tokens: matches every added token of the tokenizer, or else one character.
        is_token: whether a text holds an added token.
    """

    render: Render
    tokens: re.Pattern[str]
    is_token: Callable[[str], bool]

    def find(self, sheet: Sheet, waiting: bool, needles: Sequence[Sequence[str]]) -> Layout:
        """The layout of a conversation; `needles[i]` are texts that message `i` cannot be without."""
        text = self.render(sheet.messages, sheet.tools, waiting)
        spans = [
            self._span(sheet, position, text, waiting, needles[position])
            for position, message in enumerate(sheet.messages)
            if message["role"] == "assistant"
        ]
        return Layout(text, tuple(spans))

    def _span(
        self, sheet: Sheet, position: int, text: str, waiting: bool, needles: Sequence[str]
    ) -> Span | None:
        """From after the prompt to after the terminator, and what the template writes behind that."""
        messages, tools = sheet.messages, sheet.tools
        is_last = position == len(messages) - 1 and not waiting
        prompt = self.render(messages[:position], tools, True) if position else ""
        if not text.startswith(prompt) and not is_last:
            # The opening of a new reply may hold an empty thought that earlier replies go without.
            prompt = self.render(messages[:position], tools, True, bare=True)
        if not text.startswith(prompt):
            return None
        start = len(prompt)
        if is_last:
            return start, len(text)
        whole = self.render(messages[: position + 1], tools, False)
        if text.startswith(whole):
            return start, len(whole)
        return self._shortened(text, whole, start, needles)

    def _shortened(self, text: str, whole: str, start: int, needles: Sequence[str]) -> Span | None:
        """A reply that is written differently, `whole`, while it is the last one."""
        # The end of a conversation may have a token of its own, after the reply's terminator.
        same = self._shared(whole, text)
        ends = [whole.rfind(needle, start, same) + len(needle) for needle in needles]
        if ends and all(needle in whole[start:same] for needle in needles):
            return (start, same) if self.is_token(whole[max(ends) : same]) else None
        # The last reply may have a thought that earlier ones lose: what is left is an end of the whole.
        for cut in range(start, len(whole) - 1):
            left = whole[cut:]
            if not all(needle in left for needle in needles):
                return None
            if text.startswith(left, start):
                return start, start + len(left)
        return None

    def _shared(self, one: str, other: str) -> int:
        """The length of the common start of two texts, compared token by token."""
        length = 0
        for left, right in zip(self.tokens.finditer(one), self.tokens.finditer(other), strict=False):
            if left[0] != right[0]:
                break
            length = left.end()
        return length

"""From conversations to turns, by the rules that all named templates share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from tkernel.errors import DataError
from tkernel.rendering import exchanges
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.templates.slots import CONTENT, Edge, Slots, Token
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats import ToolFormat
from tkernel_plugins.templates.tool_formats.format import check_tools


@dataclass(frozen=True)
class Writer:
    """A template (see its fields) with a tokenizer's own tokens and the options of a run settled."""

    prefix: Slots
    system: Slots
    user: Slots
    observation: Slots
    assistant: Slots
    function: Slots
    tools: ToolFormat
    strip_tools: bool
    text_before_calls: bool
    result_separator: str
    system_in_user: bool
    reasoning: bool
    thought_words: tuple[str, str]
    empty_thought: str
    default_system: str
    enable_thinking: bool | None
    preserve_thinking: bool
    bos: str | None
    eos: str | None

    def every_turn(self, conversation: Conversation) -> list[Turn]:
        """All turns, written as if each reply were learned."""
        return self._turns(conversation, forget=False)

    def last_turn(self, conversation: Conversation) -> list[Turn]:
        """All turns, written as they look when only the last reply matters."""
        return self._turns(conversation, forget=self.reasoning and not self.preserve_thinking)

    def _turns(self, conversation: Conversation, forget: bool) -> list[Turn]:
        pairs = exchanges(conversation)
        opening, system = self._opening(conversation)
        turns = []
        for number, (asked, reply) in enumerate(pairs):
            earlier = forget and number < len(pairs) - 1
            thought_in_prompt, answer = self._reply(reply, earlier)
            prompt = [*opening, *self._prompt(asked, system), *thought_in_prompt]
            turns.append(Turn(tuple(prompt), tuple(answer), trained=reply.train, weight=reply.weight))
            opening, system = [], Text()
        return turns

    def _opening(self, conversation: Conversation) -> tuple[list[Segment], Text]:
        """What stands before the first message, and the system text that goes into that message."""
        opening = self._fill(self.prefix, Text(), "system")
        given = conversation.messages[0] if conversation.system else None
        if not (given or self.default_system or conversation.tools or conversation.empty_tools):
            return opening, Text()
        system = Text(self.default_system) if given is None else Text.of_data(given.content, given.expanded)
        if conversation.tools:
            check_tools(conversation.tools)
            tools = self.tools.describe(conversation.tools)
            system = system + (tools.without_leading("\n") if self.strip_tools and not system else tools)
        elif conversation.empty_tools:
            system = system + self.tools.without_tools
        written = self._fill(self.system, system, "system")
        if self.system_in_user:
            return opening, join("", [Text(segment.text, segment.typed) for segment in written])
        return opening + written, Text()

    def _prompt(self, asked: tuple[Message, ...], system: Text) -> list[Segment]:
        """One user message, or the results of tools."""
        texts = [Text.of_data(message.content, message.expanded) for message in asked]
        slots = self.user if asked[0].role == "user" else self.observation
        return self._fill(slots, system + join(self.result_separator, texts), asked[0].role)

    def _reply(self, reply: Message, earlier: bool) -> tuple[list[Segment], list[Segment]]:
        """What a reply adds to the prompt before it (an empty thought), and the reply itself."""
        text = self._said(reply)
        if self.reasoning and (earlier or self.enable_thinking is False):
            text = self._without_thoughts(text)
        spelled = text.text + "".join(call.arguments for call in reply.tool_calls)
        if reply.tool_calls:
            text = self._before_calls(text) + self.tools.write(reply.tool_calls)
            answer = self._fill(self.function, text, "assistant")
        else:
            answer = self._fill(self.assistant, text, "assistant")
        opens, closes = (word.strip() for word in self.thought_words)
        if not self.reasoning or earlier or opens in spelled or closes in spelled:
            return [], answer
        empty = [Segment(self.empty_thought, role="assistant")]
        return ([], empty + answer) if self.enable_thinking else (empty, answer)

    def _said(self, reply: Message) -> Text:
        """Thought and content of a reply; a thought inside the content is the template's structure too."""
        opens, closes = self.thought_words
        own, content = list(reply.expanded), reply.content
        breaks = closes[len(closes.rstrip()) :]
        # What separates a thought from the calls after it is the template's.
        ends_in_thought = content.startswith(opens) and (content + breaks).endswith(closes)
        if reply.tool_calls and ends_in_thought and closes not in content:
            content += breaks
        for thought in self.thought.finditer(content):
            start, end = thought.span()
            own += [(start, start + len(opens)), (end - len(closes), end)]
        said = Text.of_data(content, tuple(own))
        return opens + Text.of_data(reply.reasoning) + closes + said if reply.reasoning else said

    def _before_calls(self, text: Text) -> Text:
        """What a reply says before its calls, which is mostly a thought."""
        said = text.text.strip()
        if said and not self.text_before_calls:
            raise DataError(
                f"the template has no place for what a reply says before its calls: {said[:60]!r}"
            )
        return text

    def _without_thoughts(self, text: Text) -> Text:
        kept, position = Text(), 0
        for thought in self.thought.finditer(text.text):
            kept = kept + text.part(position, thought.start())
            position = thought.end()
        return (kept + text.part(position, len(text.text))).without_leading("\n")

    def _fill(self, slots: Slots, content: Text, role: str) -> list[Segment]:
        """Slots with the content in its place, one segment each; empty ones are left out."""
        segments = []
        for slot in slots:
            if isinstance(slot, str):
                before, mark, after = slot.partition(CONTENT)
                segment = content.segment(role, before, after) if mark else Segment(slot, role)
                if segment.text:
                    segments.append(segment)
            elif (token := self.token(slot)) is not None:
                segments.append(Segment(token, role=role, special=True))
        return segments

    def token(self, slot: Token | Edge) -> str | None:
        """The text of a slot that is a token; None for an edge that the tokenizer lacks."""
        if isinstance(slot, Token):
            return slot.text
        return self.bos if slot is Edge.BOS else self.eos

    def around(self, slots: Slots) -> tuple[str, str]:
        """The text before and after the content of `slots`, special tokens spelled out."""
        spelled = "".join(slot if isinstance(slot, str) else self.token(slot) or "" for slot in slots)
        before, _, after = spelled.partition(CONTENT)
        return before, after

    def terminators(self, stop_words: tuple[str, ...]) -> tuple[str, ...]:
        """`stop_words` and the end of a sequence, the one that replies end with first."""
        words = (*stop_words, self.eos) if self.eos else stop_words
        _, after = self.around(self.assistant)
        written = sorted((word for word in words if word in after), key=after.index)
        return tuple(dict.fromkeys((*written[:1], *([self.eos] if self.eos else []), *stop_words)))

    @cached_property
    def thought(self) -> re.Pattern[str]:
        """A thought with its words; the first group is what was thought."""
        opens, closes = map(re.escape, self.thought_words)
        return re.compile(f"{opens}(.*?){closes}", re.DOTALL)

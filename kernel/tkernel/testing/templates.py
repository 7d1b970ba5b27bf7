"""The contract of template plugins (`render_template`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest

from tkernel.errors import DataError, InvalidPlugin, TkError
from tkernel.testing import tiny
from tkernel.testing.contract import Contract
from tkernel.testing.conversations import (
    ONE_TURN,
    REPLIES,
    THREE_TURNS,
    TOOL_TURNS,
    WEATHER,
    as_dicts,
    calling,
    saying,
    talk,
    with_described_tool,
    with_message,
)
from tkernel.types.conversation import Conversation, Message
from tkernel.types.facts import ModelFacts
from tkernel.types.rendering import Encoded, Renderer
from tkernel.types.requests import TemplateRequest

IGNORED = -100


class TemplateContract(Contract):
    """Ids, labels, text, prompts and parsing of a template, on the tiny tokenizer."""

    kind = "template"
    special_tokens: ClassVar[tuple[str, ...]] = tiny.SPECIAL_TOKENS
    """Special tokens of the tokenizer that the template is rendered with."""
    reply_prefix: ClassVar[str] = r"\s*(<think>\s*</think>\s*)?"
    """What may stand between the start of a supervised stretch and the reply's text."""
    separator: ClassVar[str] = r"\s*"
    """What may follow a reply's terminator inside the supervised stretch."""
    terminator: ClassVar[str | None] = None
    """What follows the reply's text in a supervised stretch, where a stop word and `separator` do not say
    it: a regular expression."""
    markup: ClassVar[tuple[str, ...]] = ("<think>", "</think>")
    """Tokens that the template may read in a reply's content, as the marks of its reasoning."""
    closing: ClassVar[str] = ""
    """What ends a conversation, after the terminator of its last reply."""
    forgets: ClassVar[bool] = False
    """The last reply is written with something, an empty thought, that earlier ones go without."""
    efficient_eos: ClassVar[bool] = False
    """Replies have no terminator of their own; after an earlier one, the end-of-sequence token is
    learned in place of the next prompt's first token."""
    masked_ends: ClassVar[bool] = False
    """With `mask_history` that token is learned there after masked replies too, as in LLaMA-Factory."""

    def setup_method(self) -> None:
        """As in every suite; refuses a `separator` that nothing looks at."""
        super().setup_method()
        if self.terminator is not None and self.separator != TemplateContract.separator:
            says = f"`terminator`, {self.terminator!r}, says all that follows a reply"
            hint = "Set `terminator` in the test class instead."
            raise InvalidPlugin(f"{self.name}: `separator` is not looked at: {says}", hint=hint)

    def renderer(self, tokenizer: Any = None) -> Renderer:
        """Call the hook."""
        tokenizer = tokenizer if tokenizer is not None else tiny.make_tokenizer(self.special_tokens)
        facts = ModelFacts("tiny", "memory", None, "llama", chat_template=tokenizer.chat_template)
        request = TemplateRequest(self.name, tokenizer, facts, self.bound_options())
        renderer: Renderer = self.provider.render_template(request)
        self.tokenizer = tokenizer
        return renderer

    def three_turns(self, renderer: Renderer) -> Conversation:
        """Three turns, after a system prompt unless the template refuses one."""
        try:
            renderer.text(THREE_TURNS)
        except DataError:
            return THREE_TURNS.replace(messages=THREE_TURNS.turns)
        return THREE_TURNS

    def last_of(self, renderer: Renderer, conversation: Conversation) -> Encoded:
        """A conversation with `mask_history`; the ends that `masked_ends` allows are checked and left out."""
        encoded = renderer.encode([conversation], mask_history=True)[0]
        for start in [s for s, _, _, part in encoded.spans if part == "prompt" and self.masked_ends]:
            assert encoded.labels[start] in (IGNORED, self.tokenizer.eos_token_id)
            encoded.labels[start] = IGNORED
        return encoded

    def decode(self, ids: list[int]) -> str:
        """Ids as text, special tokens spelled out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def test_supervises_exactly_the_reply_and_its_terminator(self) -> None:
        """The supervised stretches are the replies, each followed by a stop token, and nothing else."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        encoded = renderer.encode([three])[0]
        replies = [message.content for message in three.messages if message.role == "assistant"]
        stretches = [self.decode(ids) for ids in _supervised(encoded)]
        stops = "|".join(re.escape(self.decode([stop])) for stop in renderer.stop_ids)
        end = f"\\s*({stops}){self.separator}" if self.terminator is None else self.terminator
        assert len(stretches) == len(replies)
        for stretch, reply in zip(stretches, replies, strict=True):
            pattern = f"{self.reply_prefix}{re.escape(reply)}{end}"
            assert re.fullmatch(pattern, stretch), f"{stretch!r} is not {reply!r} and its terminator"

    def test_stop_words_and_stop_ids_are_the_same_tokens(self) -> None:
        """`stop_words` are the tokens of `stop_ids`."""
        renderer = self.renderer()
        assert [self.tokenizer.convert_tokens_to_ids(word) for word in renderer.stop_words] == list(
            renderer.stop_ids
        )

    def test_labels_are_the_ids_or_masked(self) -> None:
        """As many labels as ids, each either the id at its place or -100."""
        renderer = self.renderer()
        for encoded in renderer.encode([ONE_TURN, self.three_turns(renderer)]):
            assert len(encoded.labels) == len(encoded.input_ids)
            if not self.efficient_eos:
                pairs = zip(encoded.input_ids, encoded.labels, strict=True)
                assert all(label in (IGNORED, token) for token, label in pairs)

    def test_training_ids_are_prompt_ids_plus_reply_ids(self) -> None:
        """What an engine is fed is what the model was trained on: the prompt's ids are a prefix of the
        training ids, and the rest of them is the reply, all of it supervised."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        last = [(conversation, self.last_of(renderer, conversation)) for conversation in (ONE_TURN, three)]
        for conversation, encoded in ((ONE_TURN, renderer.encode([ONE_TURN])[0]), *last):
            asked = conversation.replace(messages=conversation.messages[:-1])
            prompt = renderer.prompt_ids(asked)
            assert encoded.input_ids[: len(prompt)] == prompt
            assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)
            assert encoded.labels[len(prompt) :] == encoded.input_ids[len(prompt) :]
            assert len(encoded.labels) > len(prompt)

    def test_text_is_the_decoded_ids(self) -> None:
        """`text` and `encode` say the same."""
        renderer = self.renderer()
        for conversation in (ONE_TURN, self.three_turns(renderer)):
            ids = renderer.encode([conversation])[0].input_ids
            if self.efficient_eos:
                ids = ids[:-1]
            assert self.decode(ids) == renderer.text(conversation)

    def test_nothing_that_was_said_is_missing(self) -> None:
        """The text contains every message, in order; a system prompt may be refused, not left out."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        text = renderer.text(three)
        positions = [text.find(message.content) for message in three.messages]
        assert -1 not in positions
        assert positions == sorted(positions)

    def test_rendering_again_gives_the_same(self) -> None:
        """Two renderers, and one asked twice, give the same ids, labels and prompts."""
        one, other = self.renderer(), self.renderer()
        batch = [ONE_TURN, self.three_turns(one), ONE_TURN]
        first, second, third = one.encode(batch), one.encode(batch), other.encode(batch)
        assert first == second == third
        assert first[0] == first[2]
        asked = ONE_TURN.replace(messages=ONE_TURN.messages[:-1])
        assert one.prompt_ids(asked) == one.prompt_ids(asked) == other.prompt_ids(asked)

    def test_special_tokens_typed_by_a_user_stay_text(self) -> None:
        """Text in the data that looks like a special token is never encoded as one, in any role, nor in
        tools, calls and their results; the template may refuse it by name."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())
        words = self.tokenizer.convert_ids_to_tokens(sorted(special))
        every, unread = (
            " and ".join(word for word in words if word not in read) for read in ((), self.markup)
        )
        for typed, make in self._places(three, every, unread):
            try:
                plain, spiked = (renderer.encode([make(f"say {text} now")])[0] for text in ("x", typed))
            except DataError:
                continue
            expected, found = (
                [token for token in encoded.input_ids if token in special] for encoded in (plain, spiked)
            )
            assert found == expected, f"typed in {make('here')}"
            decoded = self.decode(spiked.input_ids)
            assert typed in decoded or json.dumps(typed, ensure_ascii=False)[1:-1] in decoded

    def _places(
        self, three: Conversation, every: str, unread: str
    ) -> Iterator[tuple[str, Callable[[str], Conversation]]]:
        """What is typed, and the conversation in which it is."""
        for position, message in enumerate(three.messages):
            typed = unread if message.role == "assistant" else every
            yield typed, partial(saying, three, position)
        yield every, partial(saying, TOOL_TURNS, 2)
        yield every, lambda text: with_described_tool(TOOL_TURNS, text)
        yield unread, lambda text: with_message(TOOL_TURNS, 1, tool_calls=calling({"city": text}).tool_calls)

    def test_batch_equals_single(self) -> None:
        """Encoding many conversations at once gives what encoding each alone gives."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        batch = [ONE_TURN, three, with_message(ONE_TURN, 1, content="Nobody, 12."), three]
        assert renderer.encode(batch) == [renderer.encode([conversation])[0] for conversation in batch]

    def test_earlier_turns_do_not_depend_on_later_ones(self) -> None:
        """The first turns of a conversation encode to a prefix of the whole."""
        if self.forgets:
            pytest.skip("the template writes earlier replies differently, and says so")
        renderer = self.renderer()
        three = self.three_turns(renderer)
        whole = renderer.encode([three])[0]
        ending = len(self.tokenizer.encode(self.closing, add_special_tokens=False)) + self.efficient_eos
        for end in (-4, -2):
            part = renderer.encode([three.replace(messages=three.messages[:end])])[0]
            ids = part.input_ids[: len(part.input_ids) - ending]
            assert whole.input_ids[: len(ids)] == ids

    def test_mask_history_supervises_the_last_reply_alone(self) -> None:
        """With `mask_history` one stretch is supervised: the last reply. With `masked_ends` the tokens that
        end earlier ones may be too, where prompts begin."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        stretches = list(_supervised(self.last_of(renderer, three)))
        assert len(stretches) == 1
        assert three.messages[-1].content in self.decode(stretches[0])

    def test_train_on_prompt_supervises_everything(self) -> None:
        """With `train_on_prompt` every id is learned, or the template says that it cannot."""
        renderer = self.renderer()
        try:
            encoded = renderer.encode([self.three_turns(renderer)], train_on_prompt=True)[0]
        except TkError:
            pytest.skip("the template refuses train_on_prompt")
        assert encoded.labels == encoded.input_ids

    def test_the_train_flag_decides_for_its_message(self) -> None:
        """`train: false` masks one reply; `train: true` keeps one that `mask_history` would mask."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        off = with_message(three, -3, train=False)
        stretches = [self.decode(ids) for ids in _supervised(renderer.encode([off])[0])]
        assert len(stretches) == 2
        assert not any("stopped" in stretch for stretch in stretches)
        on = with_message(three, -3, train=True)
        stretches = [self.decode(ids) for ids in _supervised(self.last_of(renderer, on))]
        assert len(stretches) == 2
        assert "stopped" in stretches[0]

    def test_weights_are_those_of_the_messages(self) -> None:
        """A message's weight is on every token of its reply; without any, there are no weights."""
        renderer = self.renderer()
        three = self.three_turns(renderer)
        weighted = renderer.encode([with_message(three, -3, weight=0.25)])[0]
        assert renderer.encode([three])[0].weights is None
        assert weighted.weights is not None
        learned = [
            weight
            for weight, label in zip(weighted.weights, weighted.labels, strict=True)
            if label != IGNORED
        ]
        lengths = [len(ids) for ids in _supervised(weighted)]
        assert learned == [1.0] * lengths[0] + [0.25] * lengths[1] + [1.0] * lengths[2]

    def test_spans_cover_the_ids_and_separate_prompts_from_replies(self) -> None:
        """Spans follow one another from the first id to the last; the supervised ones are the replies."""
        renderer = self.renderer()
        encoded = renderer.encode([self.three_turns(renderer)])[0]
        ends = [span[1] for span in encoded.spans]
        assert [span[0] for span in encoded.spans] == [0, *ends[:-1]]
        assert ends[-1] in (len(encoded.input_ids), len(encoded.input_ids) - self.efficient_eos)
        assert [span[2:] for span in encoded.spans] == [
            (turn, part) for turn in range(3) for part in ("prompt", "reply")
        ]
        if not self.efficient_eos:
            for start, end, _, part in encoded.spans:
                assert (encoded.labels[start:end] == encoded.input_ids[start:end]) == (part == "reply")

    def test_a_reply_parses_back_to_its_message(self) -> None:
        """What the template writes for a reply, reasoning and tool calls included, it reads back: quotes,
        nested arguments, several calls. It may refuse a reply that it has no place for."""
        renderer = self.renderer()
        for reply in REPLIES:
            conversation = Conversation(
                (Message("user", "Well?"), reply), (WEATHER,) if reply.tool_calls else ()
            )
            try:
                ids = renderer.encode([conversation])[0].input_ids
            except TkError:
                assert reply.tool_calls or reply.reasoning, "a plain reply cannot be refused"
                continue
            prompt = renderer.prompt_ids(conversation.replace(messages=conversation.messages[:1]))
            # An engine hands over the reply without the special tokens of its end.
            text = self.decode(_until_stop(ids[len(prompt) :], renderer.stop_ids))
            parsed = renderer.parse_reply(text)
            assert parsed.role == "assistant"
            assert [(c.name, json.loads(c.arguments)) for c in parsed.tool_calls] == [
                (c.name, json.loads(c.arguments)) for c in reply.tool_calls
            ]
            if reply.reasoning is None:
                assert parsed.content.strip() == reply.content
            elif reply.reasoning in text:
                # Where no words of the template's own stand around it, a thought is content.
                assert reply.reasoning in (parsed.reasoning or parsed.content)

    def test_tools_are_rendered_or_refused(self) -> None:
        """The tools of a conversation are in its text, or the template says that it has no place for them."""
        renderer = self.renderer()
        try:
            text = renderer.text(ONE_TURN.replace(tools=(WEATHER,)))
        except TkError:
            return
        assert "get_weather" in text
        assert "The weather of a city" in text

    def test_roles_out_of_order_are_rendered_or_refused(self) -> None:
        """An order of roles that the template cannot render is a DataError; no message disappears."""
        renderer = self.renderer()
        for conversation in (
            talk(("user", "first words"), ("user", "second words"), ("assistant", "third words")),
            talk(("assistant", "first words"), ("user", "second words"), ("assistant", "third words")),
        ):
            try:
                text = renderer.text(conversation)
            except DataError:
                continue
            assert all(message.content in text for message in conversation.messages)
        with pytest.raises(DataError):
            renderer.text(Conversation(()))

    def test_added_tokens_are_named(self) -> None:
        """Tokens that the template adds to a tokenizer without them are listed in `added_tokens`."""
        tokenizer = tiny.make_tokenizer(("<s>", "</s>", "<|im_end|>"))
        before = set(tokenizer.get_vocab())
        renderer = self.renderer(tokenizer)
        assert set(tokenizer.get_vocab()) - before == set(renderer.added_tokens)

    def test_jinja_says_the_same(self) -> None:
        """Where the template can be written as Jinja, Jinja renders the same text and the same prompt."""
        renderer = self.renderer()
        source = renderer.jinja()
        if source is None:
            pytest.skip("the template has no Jinja form")
        for conversation in (ONE_TURN, self.three_turns(renderer), TOOL_TURNS):
            try:
                text = renderer.text(conversation)
            except DataError:
                continue
            kwargs = {"chat_template": source, "tokenize": False, "tools": list(conversation.tools) or None}
            messages = as_dicts(conversation)
            try:
                written = self.tokenizer.apply_chat_template(messages, **kwargs)
            except Exception:  # a template may want lists of parts, and fail at a string as it likes
                written = None
            if written != text:
                messages = as_dicts(conversation, parts=True)
                assert self.tokenizer.apply_chat_template(messages, **kwargs) == text
            asked = conversation.replace(messages=conversation.messages[:-1])
            assert self.tokenizer.apply_chat_template(
                messages[:-1], add_generation_prompt=True, **kwargs
            ) == self.decode(renderer.prompt_ids(asked))


def _supervised(encoded: Encoded) -> Iterator[list[int]]:
    """The ids of each stretch of labels that are learned."""
    stretch: list[int] = []
    for label in [*encoded.labels, IGNORED]:
        if label != IGNORED:
            stretch.append(label)
        elif stretch:
            yield stretch
            stretch = []


def _until_stop(ids: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    stops = [position for position, token in enumerate(ids) if token in stop_ids]
    return ids[: stops[0]] if stops else ids

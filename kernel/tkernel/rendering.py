"""A renderer made of one function: conversation -> turns of typed segments.

Text, ids, labels, spans and prompts are folds over the same segments, so they cannot disagree.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tkernel.encoding import SegmentEncoder
from tkernel.errors import DataError, TkError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Encoded, Segment, Turn

IGNORED = -100
"""The label of a token from which nothing is learned."""

TurnsOf = Callable[[Conversation], list[Turn]]


def exchanges(conversation: Conversation) -> list[tuple[tuple[Message, ...], Message]]:
    """The conversation as pairs: one user message, or the results of tools, and the reply to it.

    Raises:
        DataError: roles in another order than (system) (user | tool+) assistant (user | tool+) ...
            ending with the assistant's; the message names the position, counted from 0.
    """
    offset = len(conversation.messages) - len(conversation.turns)
    pairs: list[tuple[tuple[Message, ...], Message]] = []
    prompt: list[Message] = []
    for position, message in enumerate(conversation.turns, start=offset):
        if message.role == "assistant" and prompt:
            pairs.append((tuple(prompt), message))
            prompt = []
        elif (message.role == "user" and not prompt) or (
            message.role == "tool" and all(earlier.role == "tool" for earlier in prompt)
        ):
            prompt.append(message)
        else:
            expected = "an assistant message" if prompt else "a user or tool message"
            raise DataError(f"message {position} has the role {message.role!r} where {expected} belongs")
    if prompt:
        raise DataError(
            f"the conversation ends with message {len(conversation.messages) - 1} of role {prompt[-1].role!r}; "
            "an assistant message must follow it"
        )
    if not pairs:
        raise DataError("the conversation has no messages")
    return pairs


class SegmentRenderer:
    """Implements `tkernel.types.rendering.Renderer`.

    Args:
        name: the template's name.
        tokenizer: a `transformers` tokenizer; see `tkernel.encoding.SegmentEncoder` for what is used of it.
        turns_of: the conversation, which ends with a reply, as turns; raises `DataError` for an order
            of roles that it cannot render (`exchanges` checks the usual one).
        last_turns_of: the same where only the last reply matters: in prompts, and when `mask_history`
            is set. Reasoning templates leave out earlier thoughts there. Default: `turns_of`.
        prompt_of: what comes before the reply that a conversation waits for. Default: `last_turns_of`
            with an empty reply at the end, without that reply.
        stop_words: tokens that end a reply, the one that replies in training end with first. The
            tokenizer's end-of-sequence token is added to them.
        added_tokens: what the template added to the tokenizer.
        efficient_eos: replies have no terminator of their own: one end-of-sequence token follows the
            last reply, and after an earlier one it is learned in place of the next prompt's first token.
        masked_ends: `mask_history` leaves that label on the first token of every prompt but the last
            (LLaMA-Factory's rule, by which ends of masked replies are learned).
        end_of_text: what follows a document in training on text; None: the tokenizer's end-of-sequence token.
        parse: a generated reply -> a message; default: the text as the content.
        jinja: the template as a Jinja chat template, made when asked for.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        turns_of: TurnsOf,
        *,
        last_turns_of: TurnsOf | None = None,
        prompt_of: Callable[[Conversation], Sequence[Segment]] | None = None,
        stop_words: Sequence[str] = (),
        added_tokens: Sequence[str] = (),
        efficient_eos: bool = False,
        masked_ends: bool = False,
        end_of_text: str | None = None,
        parse: Callable[[str], Message] | None = None,
        jinja: Callable[[], str | None] | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.added_tokens = tuple(added_tokens)
        self.efficient_eos = efficient_eos
        self.masked_ends = masked_ends
        self.end_of_text = end_of_text
        self._turns_of = turns_of
        self._last_turns_of = last_turns_of or turns_of
        self._prompt_of = prompt_of or self._prompt_of_last_turn
        self._parse = parse
        self._jinja = jinja
        self._encoder = SegmentEncoder(tokenizer)
        end = [tokenizer.eos_token] if tokenizer.eos_token is not None else []
        self.stop_words = tuple(dict.fromkeys([*stop_words, *end]))
        self.stop_ids = tuple(dict.fromkeys(self._encoder.token_id(word) for word in self.stop_words))

    def turns(self, conversation: Conversation) -> list[Turn]:
        """The segments of every turn of a conversation that ends with a reply."""
        return self._turns_of(conversation)

    def text(self, conversation: Conversation) -> str:
        """The whole conversation as text, special tokens spelled out."""
        turns = self._turns_of(conversation)
        return "".join(segment.text for turn in turns for segment in (*turn.prompt, *turn.reply))

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        train_on_prompt: bool = False,
        mask_history: bool = False,
    ) -> list[Encoded]:
        """Ids and labels for training; see `Renderer.encode`.

        Raises:
            DataError: a conversation that the template cannot render.
            TkError: `train_on_prompt` where replies have no terminator of their own.
        """
        if train_on_prompt and self.efficient_eos:
            raise TkError(
                f"template {self.name!r} cannot train on prompts: its replies end where the next prompt begins",
                hint="Leave `train_on_prompt` out, or choose another template.",
            )
        flat = self.flat(conversations, mask_history=mask_history)
        return [flat.conversation(number, train_on_prompt) for number in range(len(conversations))]

    def flat(self, conversations: Sequence[Conversation], *, mask_history: bool = False) -> Flat:
        """The same whole, in one array: for encoding many, where a list for each costs as much as its tokens."""
        turns_of = self._last_turns_of if mask_history else self._turns_of
        batch = [turns_of(conversation) for conversation in conversations]
        segments = [s for turns in batch for turn in turns for s in (*turn.prompt, *turn.reply)]
        encoded = iter(self._encoder.arrays(segments))
        flat = Flat(self._encoder.token_id(self.tokenizer.eos_token) if self.efficient_eos else None)
        left = self.masked_ends and mask_history
        for turns in batch:
            for number, turn in enumerate(turns, start=1):
                trained = not mask_history or number == len(turns)
                flat.starts.append(len(flat.ids))
                for _ in turn.prompt:
                    flat.ids += next(encoded)
                flat.middles.append(len(flat.ids))
                ends = (number > 1 and flat.trained[-1]) or (left and number < len(turns))
                flat.ended.append(ends and len(flat.ids) > flat.starts[-1])
                for _ in turn.reply:
                    flat.ids += next(encoded)
                flat.trained.append(trained if turn.trained is None else turn.trained)
                flat.weights.append(turn.weight)
            if flat.end is not None:
                flat.ids.append(flat.end)
            flat.turns.append(len(flat.starts))
        flat.starts.append(len(flat.ids))
        return flat

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Ids of all that comes before the reply to the last user or tool message.

        A conversation that ends with a reply gives the prompt of that reply: the same ids that
        `encode(..., mask_history=True)` puts before it.
        """
        return [i for ids in self._encoder.encode(self._prompt_of(conversation)) for i in ids]

    def parse_reply(self, text: str) -> Message:
        """A generated reply as a message."""
        return Message("assistant", text) if self._parse is None else self._parse(text)

    def jinja(self) -> str | None:
        """The template as a chat template for `tokenizer.chat_template`, if it can be written as one."""
        return None if self._jinja is None else self._jinja()

    def _prompt_of_last_turn(self, conversation: Conversation) -> list[Segment]:
        if conversation.messages and conversation.messages[-1].role != "assistant":
            waiting = (*conversation.messages, Message("assistant"))
            conversation = conversation.replace(messages=waiting)
        *earlier, last = self._last_turns_of(conversation)
        return [segment for turn in earlier for segment in (*turn.prompt, *turn.reply)] + list(last.prompt)


@dataclass(slots=True)
class Flat:
    """Whole conversations, one after the other, as one array of ids.

    Turn `t` has its prompt at `starts[t]:middles[t]` and its reply at `middles[t]:starts[t + 1]`, of which
    `trained[t]` says whether it is learned, with `weights[t]`. Conversation `n` has the turns
    `turns[n]:turns[n + 1]`. `end` is the id that ends conversations (it belongs to the last reply) and, as a
    label of the first token of the next prompt, `ended[t]`, earlier ones; None where replies have a terminator.
    """

    end: int | None = None
    ids: array[int] = field(default_factory=partial(array, "i"))
    starts: list[int] = field(default_factory=list)
    middles: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=lambda: [0])

    def conversation(self, number: int, train_on_prompt: bool = False) -> Encoded:
        """Ids, labels, spans and weights of conversation `number`."""
        first, last = self.turns[number], self.turns[number + 1]
        start = self.starts[first]
        input_ids = self.ids[start : self.starts[last]].tolist()
        labels, weights, spans = [IGNORED] * len(input_ids), [1.0] * len(input_ids), []
        for turn in range(first, last):
            begin, middle = self.starts[turn] - start, self.middles[turn] - start
            stop = self.starts[turn + 1] - start
            if train_on_prompt:
                labels[begin:middle] = input_ids[begin:middle]
            if self.trained[turn]:
                labels[middle:stop] = input_ids[middle:stop]
            weights[middle:stop] = [self.weights[turn]] * (stop - middle)
            if self.end is not None and self.ended[turn]:
                labels[begin] = self.end
                weights[begin] = self.weights[turn - 1] if turn > first else 1.0
            spans += [(begin, middle, turn - first, "prompt"), (middle, stop, turn - first, "reply")]
        weighted = any(weight != 1.0 for weight in self.weights[first:last])
        return Encoded(input_ids, labels, spans, weights if weighted else None)

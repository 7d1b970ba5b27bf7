"""What a template makes of a conversation: segments first, everything else is a fold over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tkernel.types.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is tokenised on its own.

    `special` segments are one token of the vocabulary, named by `text`. `typed` are the character
    ranges `(start, end)` of `text` that came out of the data: special-token text inside them stays
    text, while outside of them (the template's own text) it becomes the token.
    """

    text: str
    role: str = ""
    special: bool = False
    typed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and the reply to it: what the model reads, then what it is trained to say.

    The reply ends with its terminator. The prompt of the first turn starts with the system prompt.
    `trained` is False when the message says `train: false`; `weight` is the message's.
    """

    prompt: tuple[Segment, ...]
    reply: tuple[Segment, ...]
    trained: bool | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as ids and labels of equal length; -100 where nothing is learned.

    `spans` says which message each stretch came from: `(start, end, turn, part)`, `part` being
    `prompt` or `reply`. `weights` is None when every weight is 1. `dropped` counts the tokens that
    truncation cut off. `media` are stretches `(start, end, number)` that are kept whole or not at all:
    what stands for medium `number` of the conversation. `piece` counts from 0 where it was split.
    """

    input_ids: list[int]
    labels: list[int]
    spans: list[tuple[int, int, int, str]] = field(default_factory=list)
    weights: list[float] | None = None
    dropped: int = 0
    media: list[tuple[int, int, int]] = field(default_factory=list)
    piece: int = 0


class Renderer(Protocol):
    """What `render_template` returns. Training, chat, serving and export use the same one.

    `tkernel.rendering.SegmentRenderer` implements all of it over one function that turns a
    conversation into turns; a template plugin normally returns that.
    """

    name: str
    stop_ids: tuple[int, ...]
    """Ids that end a reply; the first one terminates replies in training where the template has one."""
    stop_words: tuple[str, ...]
    added_tokens: tuple[str, ...]
    """Tokens that the template added to the tokenizer: the model's embeddings must grow by them."""

    def turns(self, conversation: Conversation) -> list[Turn]:
        """The segments of every turn; raises `DataError` for an order of roles it cannot render."""
        ...

    def text(self, conversation: Conversation) -> str:
        """The whole conversation as text, special tokens spelled out."""
        ...

    def encode(
        self,
        conversations: Sequence[Conversation],
        *,
        train_on_prompt: bool = False,
        mask_history: bool = False,
    ) -> list[Encoded]:
        """Ids and labels of whole conversations for training, a batch at a time. Exactly replies and
        terminators are supervised unless `train_on_prompt`; with `mask_history` only the last reply."""
        ...

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Ids of all that comes before the reply to the last user or tool message: what an engine is
        fed. For the same messages, `prompt_ids + reply ids == encode(..., mask_history=True).input_ids`,
        and the same without `mask_history` unless the template leaves out earlier thoughts."""
        ...

    def parse_reply(self, text: str) -> Message:
        """A generated reply as a message: tool calls and reasoning taken apart."""
        ...

    def jinja(self) -> str | None:
        """The template as a chat template for `tokenizer.chat_template`."""
        ...

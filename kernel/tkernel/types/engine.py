"""Generating replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tkernel.types.conversation import Conversation, Message


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; names and defaults are LLaMA-Factory's."""

    do_sample: bool = True
    temperature: float = field(default=0.95, metadata={"ge": 0})
    top_p: float = field(default=0.7, metadata={"gt": 0, "le": 1})
    top_k: int = field(default=50, metadata={"ge": 0})
    num_beams: int = field(default=1, metadata={"ge": 1})
    max_new_tokens: int = field(default=1024, metadata={"ge": 0})
    repetition_penalty: float = field(default=1.0, metadata={"gt": 0})
    length_penalty: float = 1.0
    skip_special_tokens: bool = True
    stop: tuple[str, ...] = ()
    """Texts that end a reply; they are not part of its text."""
    logprobs: int | None = field(default=None, metadata={"ge": 0, "le": 20})
    """Give each token's log-probability and those of so many most likely tokens; None gives none."""
    n: int = field(default=1, metadata={"ge": 1, "le": 128})
    """Replies to each conversation."""


@dataclass(frozen=True)
class RequestSampling(Sampling):
    """What one call may ask for beside: no keys of a run."""

    seed: int | None = None
    """Reply number `index` draws from a generator that starts at `seed + index`; None: from the engine's."""
    adapter: str | None = None
    """Name of an adapter that the engine holds; None is the model as it was loaded."""
    grammar: str | None = None
    """A JSON schema, as JSON text, that the reply must satisfy; engines that cannot do it raise a `TkError`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text to go on from, in place of a conversation: no template is applied. `ids` win over `text`."""

    text: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural logarithm of a token's probability under the model alone: before temperature, filters and
    penalties, as teacher forcing gives it. `top` are the most likely tokens with theirs, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of reply number `index`; reply `k` of `n` to conversation `c` has the index `c * n + k`.

    `text` is valid UTF-8 and what is new; the texts of one index joined are the whole reply.
    `finish_reason` is set in the last piece of an index: `stop` or `length`. `logprobs` are those of
    `token_ids`, if they were asked for. The last piece says how many tokens the prompt has.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """A whole reply: its text, its ids (terminator included if it was generated) and the parsed message."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    message: Message
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int = 0


def collect(
    deltas: Iterable[Delta], asked: Sequence[Conversation | Prompt], n: int, parse: Callable[[str], Message]
) -> list[Reply]:
    """The `n` replies to each conversation; `parse` is a renderer's `parse_reply`. What follows a `Prompt` is text."""
    pieces: list[list[Delta]] = [[] for _ in range(len(asked) * n)]
    for delta in deltas:
        pieces[delta.index].append(delta)
    return [_joined(mine, asked[number // n], parse) for number, mine in enumerate(pieces)]


def _joined(deltas: list[Delta], asked: Conversation | Prompt, parse: Callable[[str], Message]) -> Reply:
    text = "".join(delta.text for delta in deltas)
    reasons = [delta.finish_reason for delta in deltas if delta.finish_reason]
    return Reply(
        text,
        tuple(token for delta in deltas for token in delta.token_ids),
        reasons[-1] if reasons else "length",
        Message("assistant", text) if isinstance(asked, Prompt) else parse(text),
        tuple(logprob for delta in deltas for logprob in delta.logprobs),
        max((delta.prompt_tokens for delta in deltas), default=0),
    )


class Engine(Protocol):
    """What `generate` returns."""

    def stream(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Replies to many conversations at once, piece by piece and interleaved.

        `sampling` None means the options of the run. Closing the iterator stops the work. May be called from
        many threads at once.
        """

    def reply(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> list[Reply]:
        """The same, collected: `sampling.n` replies to each conversation, in order."""

    def close(self) -> None:
        """Give back memory and processes. Safe to call twice."""

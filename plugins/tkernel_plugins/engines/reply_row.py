"""The reply to one conversation while it is generated: its pieces, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tkernel.types.engine import Delta, Sampling, TokenLogprob
from tkernel_plugins.engines.incremental_text import IncrementalText


class ReplyRow:
    """Takes tokens one by one and gives pieces of text: whole characters, nothing of a stop text.

    Args:
        index: of the reply, in its deltas.
        limit: tokens that it may have.
        sampling: whose stop texts end it.
        stop_ids: tokens that end it.
        chooser: what takes its tokens, where that is not an engine's own work.
    """

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        limit: int,
        sampling: Sampling,
        tokenizer: Any,
        stop_ids: Sequence[int],
        chooser: Any = None,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.limit = limit
        self.sampling = sampling
        self.chooser = chooser
        self.stop_ids = stop_ids
        self.stops = sampling.stop
        self.text = IncrementalText(tokenizer, skip_special_tokens=sampling.skip_special_tokens)
        self.done = False
        self.last = -1
        self.count = 0
        self._waiting = ""  # text that may be the beginning of a stop text
        self._ids: list[int] = []  # whose text was not given yet
        self._logprobs: list[TokenLogprob] = []

    def take(self, token: int, logprob: TokenLogprob | None = None) -> Delta | None:
        """The piece that `token` completes, if it does."""
        self.count += 1
        self.last = token
        self._ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self.stop_ids:
            return self._end("stop", self.text.finish())
        text = self.text.add(token)
        if self.count >= self.limit:
            return self._end("length", text + self.text.finish())
        self._waiting += text
        if (place := self._stop_place()) is not None:
            self._waiting = self._waiting[:place]
            return self._piece("stop")
        keep = max(
            (n for stop in self.stops for n in range(1, len(stop)) if self._ends_with(stop[:n])), default=0
        )
        given, self._waiting = _split(self._waiting, len(self._waiting) - keep)
        return self._delta(given) if given else None

    def end(self) -> Delta:
        """The last piece of a reply that the caller ends."""
        return self._end("length", self.text.finish())

    def _stop_place(self) -> int | None:
        places = [place for stop in self.stops if stop and (place := self._waiting.find(stop)) >= 0]
        return min(places, default=None)

    def _ends_with(self, text: str) -> bool:
        return self._waiting.endswith(text)

    def _end(self, reason: str, text: str) -> Delta:
        self._waiting += text
        if (place := self._stop_place()) is not None:
            self._waiting, reason = self._waiting[:place], "stop"
        return self._piece(reason)

    def _piece(self, reason: str) -> Delta:
        self.done = True
        given, self._waiting = self._waiting, ""
        return self._delta(given, reason)

    def _delta(self, text: str, reason: str | None = None) -> Delta:
        ids, logprobs = tuple(self._ids), tuple(self._logprobs)
        self._ids, self._logprobs = [], []
        return Delta(self.index, text, ids, reason, logprobs, len(self.prompt) if reason else 0)


def _split(text: str, place: int) -> tuple[str, str]:
    return text[:place], text[place:]

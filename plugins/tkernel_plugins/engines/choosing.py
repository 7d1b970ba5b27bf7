"""From logits to the next token of one reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tkernel.types.engine import Sampling, TokenLogprob


@dataclass
class Chooser:
    """Chooses the tokens of one reply: penalty, grammar, temperature, `top_k`, `top_p`, in this order.

    Draws from a generator of its own, so that what else is generated changes nothing.
    """

    sampling: Sampling
    prompt: Sequence[int]
    seed: int
    matcher: Any = None
    """What says which tokens the grammar allows next (`engines.grammars`); None allows all."""
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed % 2**63)
        self.draws = self.sampling.do_sample and self.sampling.temperature > 0
        self.penalised = self.sampling.repetition_penalty != 1.0
        if self.penalised:
            self.seen = set(self.prompt)

    @property
    def plain(self) -> bool:
        """The next token is the most likely one, and nothing else is asked for."""
        return not (self.draws or self.penalised or self.matcher) and self.sampling.logprobs is None

    def choose(self, logits: torch.Tensor) -> tuple[int, TokenLogprob | None]:
        """The next token from float32 logits `(vocabulary,)`, and its log-probability if it was asked for."""
        scores = self._penalise(logits) if self.penalised else logits
        if self.matcher is not None:
            scores = scores.masked_fill(~self.matcher.allowed(len(scores)).to(scores.device), -torch.inf)
        token = self._draw(scores) if self.draws else int(scores.argmax())
        if self.matcher is not None:
            self.matcher.take(token)
        if self.penalised:
            self.seen.add(token)
        count = self.sampling.logprobs
        return token, None if count is None else _logprob(logits, token, count)

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        seen = torch.tensor(sorted(self.seen), device=logits.device)
        penalty, old = self.sampling.repetition_penalty, logits[seen]
        return logits.index_copy(0, seen, torch.where(old < 0, old * penalty, old / penalty))

    def _draw(self, scores: torch.Tensor) -> int:
        scores = scores / self.sampling.temperature
        count, top_p = min(self.sampling.top_k or len(scores), len(scores)), self.sampling.top_p
        if count == len(scores) and top_p == 1.0:
            return self._pick(scores.softmax(-1))
        values, ids = scores.topk(count)
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        return int(ids[self._pick(probabilities * (before < top_p))])

    def _pick(self, weights: torch.Tensor) -> int:
        # On the processor, whose generators draw the same on every machine.
        return int(torch.multinomial(weights.cpu(), 1, generator=self.generator))


def _logprob(logits: torch.Tensor, token: int, count: int) -> TokenLogprob:
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(count) if count else None
    top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)

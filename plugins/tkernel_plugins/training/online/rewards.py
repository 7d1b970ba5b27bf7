"""Rewards of completions: functions with TRL's signature, and models."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from tkernel.errors import TkError
from tkernel.references import load_function
from tkernel.types.engine import Reply
from tkernel_plugins.training.online.prompts import Prompt

Score = Callable[[Sequence[Prompt], Sequence[Reply]], torch.Tensor]
"""Prompts and their replies -> one score each, (completions)."""


class RewardError(TkError):
    """A reward function fails, or gives something that is no reward."""


class Rewards:
    """What completions are worth, by each of several judges.

    A function gets lists of equal length under `prompts`, `completions`, `completion_ids` and the names of
    the data's other columns, and further `trainer_state`, `log_extra(column, values)` and
    `log_metric(name, value)`. It returns a number for each completion, or None for one that it does not
    judge. Where the data's prompts are texts, so are `prompts` and `completions`; else both are lists of
    messages. Coroutine functions are awaited. All of this is as in TRL.

    Args:
        functions: references, `pkg.mod:fn` or `./file.py:fn`.
        weights: of the functions, then of the model; None weighs all alike.
        model: judges too, after the functions, under the name `reward_model`.
    """

    def __init__(
        self,
        functions: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        model: Score | None = None,
    ) -> None:
        self.functions = [(text, load_function(text)) for text in functions]
        self.model = model
        self.names = [*_names(functions), *(["reward_model"] if model is not None else [])]
        self.weights = torch.tensor(weights or [1.0] * len(self.names), dtype=torch.float64)
        self.extra: dict[str, list[Any]] = {}
        self.metrics: dict[str, list[float]] = {}

    def __call__(
        self, prompts: Sequence[Prompt], replies: Sequence[Reply], state: Any, seed: int
    ) -> torch.Tensor:
        """The rewards, (completions, judges) in float64; NaN where a function gave None.

        Functions that draw random numbers draw the same ones for the same `seed`, and leave those of
        training as they were.

        Raises:
            RewardError: naming the function.
        """
        self.extra, self.metrics = {}, {}
        columns = []
        with _own_random(seed):
            for text, function in self.functions:
                columns.append(self._call(text, function, prompts, replies, state))
        if self.model is not None:
            columns.append(self.model(prompts, replies).to("cpu", torch.float64))
        return torch.stack(columns, dim=1)

    def total(self, rewards: torch.Tensor) -> torch.Tensor:
        """The weighted sum, (completions); NaN where no judge gave a reward."""
        summed = (rewards * self.weights).nansum(1)
        return torch.where(rewards.isnan().all(1), math.nan, summed)

    def _call(
        self,
        text: str,
        function: Callable[..., Any],
        prompts: Sequence[Prompt],
        replies: Sequence[Reply],
        state: Any,
    ) -> torch.Tensor:
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        given: dict[str, Any] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
        given |= {
            "prompts": [prompt.shown for prompt in prompts],
            "completions": [completion_shown(p, reply) for p, reply in zip(prompts, replies, strict=True)],
            "completion_ids": [list(reply.token_ids) for reply in replies],
            "trainer_state": state,
            "log_extra": lambda column, values: self.extra.setdefault(column, []).extend(values),
            "log_metric": lambda name, value: self.metrics.setdefault(name, []).append(float(value)),
        }
        try:
            result = function(**given)
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
        except Exception as error:
            raise RewardError(
                f"the reward function `{text}` failed: {type(error).__name__}: {error}",
                hint="It is called with prompts, completions, completion_ids and the data's columns as "
                "keyword arguments: take what it does not use with **kwargs.",
            ) from error
        try:
            values = [math.nan if value is None else float(value) for value in result]
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"the reward function `{text}` gave {result!r:.80}, not a list of numbers"
            ) from error
        if len(values) != len(replies) or any(map(math.isinf, values)):
            what = "infinite rewards" if len(values) == len(replies) else f"{len(values)} rewards"
            raise RewardError(f"the reward function `{text}` gave {what} for {len(replies)} completions")
        return torch.tensor(values, dtype=torch.float64)


def completion_shown(prompt: Prompt, reply: Reply) -> Any:
    """A completion as reward functions get it: a text, or a list with the assistant's message."""
    return reply.text if prompt.is_text else [{"role": "assistant", "content": reply.text}]


def _names(functions: Sequence[str]) -> list[str]:
    """The functions' own names; whole references where two have the same."""
    short = [text.rpartition(":")[2] for text in functions]
    return [text if short.count(name) > 1 else name for text, name in zip(functions, short, strict=True)]


async def _awaited(result: Any) -> Any:
    return await result


@contextmanager
def _own_random(seed: int) -> Iterator[None]:
    states = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            numpy.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])

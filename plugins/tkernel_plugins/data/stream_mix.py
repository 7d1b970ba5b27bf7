"""The order of rows that come from streams: several mixed to one, and shuffled in a buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tkernel.errors import DataError, TkError

Item = TypeVar("Item")
Source = Callable[[], Iterator[Item]]
"""Called, a stream begins at its first item."""

_DRAWS = 1000
"""Sources that are drawn at once, as `datasets.interleave_datasets` does: the draws depend on it."""


def mixed(
    sources: Sequence[Source[Item]], strategy: str, probabilities: Sequence[float] | None, seed: int
) -> Iterator[Item]:
    """The items of all sources in the order that `mix.merged_order` gives datasets whose lengths are known.

    `sources` are read as far as they are needed; for `interleave_over` those that end before the longest
    are read again.

    Raises:
        TkError: `probabilities` of another number than sources, or of a source that could never end.
        DataError: a source that is interleaved is empty.
    """
    if strategy == "concat" or len(sources) == 1:
        for source in sources:
            yield from source()
        return
    heads = [_Head(source) for source in sources]
    if probabilities is None:
        yield from _in_turn(heads, strategy)
        return
    if len(probabilities) != len(sources):
        raise TkError(
            f"`interleave_probs` has {len(probabilities)} numbers for {len(sources)} datasets",
            hint="Give one number for each dataset, in their order.",
        )
    if strategy != "interleave_under" and not all(probabilities):
        raise TkError(
            f"a dataset of probability 0 is never drawn, and `mix_strategy: {strategy}` waits for its end",
            hint="Leave the dataset out, or take `interleave_under`.",
        )
    yield from _at_random(heads, strategy, probabilities, seed)


class _Head(Iterator[Item]):
    """A source with one item read ahead, so that its end is known with its last item."""

    def __init__(self, source: Source[Item]) -> None:
        self.source = source
        self.ended_once = False
        self._start()

    def _start(self) -> None:
        self.items = self.source()
        self.ahead = list(self._one())

    def _one(self) -> Iterator[Item]:
        for item in self.items:
            yield item
            return

    def __next__(self) -> Item:
        if not self.ahead:
            raise StopIteration
        item = self.ahead.pop()
        self.ahead.extend(self._one())
        self.ended_once = self.ended_once or not self.ahead
        return item

    def again(self) -> None:
        """From the first item, if the last has been given."""
        if not self.ahead:
            self._start()


def _in_turn(heads: Sequence[_Head[Item]], strategy: str) -> Iterator[Item]:
    if strategy != "interleave_once":
        _refuse_empty(heads)
    while True:
        if strategy == "interleave_under" and not all(head.ahead for head in heads):
            return
        if strategy == "interleave_over" and all(head.ended_once for head in heads):
            return
        if not any(head.ahead or strategy == "interleave_over" for head in heads):
            return
        for head in heads:
            if strategy == "interleave_over":
                head.again()
            if head.ahead:
                yield next(head)


def _at_random(
    heads: Sequence[_Head[Item]], strategy: str, probabilities: Sequence[float], seed: int
) -> Iterator[Item]:
    import numpy as np

    drawn = [head for head, probability in zip(heads, probabilities, strict=True) if probability > 0]
    _refuse_empty(drawn)
    generator = np.random.default_rng(seed)
    has_ended = any if strategy == "interleave_under" else all
    while True:
        for number in generator.choice(len(heads), size=_DRAWS, p=list(probabilities)).tolist():
            if has_ended(head.ended_once for head in drawn):
                return
            if strategy == "interleave_over":
                heads[number].again()
            if heads[number].ahead:
                yield next(heads[number])


def _refuse_empty(heads: Sequence[_Head[Item]]) -> None:
    empty = [number for number, head in enumerate(heads, start=1) if not head.ahead]
    if empty:
        raise DataError(
            f"dataset {empty[0]} of {len(heads)} has no rows that can be used, and cannot be interleaved",
            hint="Leave it out, or take `mix_strategy: concat`.",
        )


def shuffled(items: Iterator[Item], buffer_size: int, seed: int, epoch: int) -> Iterator[Item]:
    """`items` in an order that depends on `seed` and `epoch` alone.

    Whenever `buffer_size` items are waiting, half of them, drawn at random, are given in random order; so
    no item comes more than `buffer_size` places early, and reading on is never waited for twice.
    """
    import numpy as np

    generator = np.random.default_rng([seed, epoch])
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) >= buffer_size:
            order = generator.permutation(len(waiting)).tolist()
            given = len(waiting) - buffer_size // 2
            for index in order[:given]:
                yield waiting[index]
            waiting = [waiting[index] for index in order[given:]]
    for index in generator.permutation(len(waiting)).tolist():
        yield waiting[index]

"""Log-probabilities of the reference model: computed once for each sample, one sample at a time.

So they depend on the sample alone, not on the batch that it comes in, and a run that is resumed, or that finds
them in the cache, has the same ones bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel_plugins.training.logps_store import LogpsStore

SAVED = 64
"""Samples after which what was computed before step 1 is brought to the disk."""

Score = Callable[[Any, Mapping[str, Any]], torch.Tensor]
"""Of a model and a part or a padded batch, the sum of each sequence's log-probabilities."""


class Reference:
    """A frozen model and what it said.

    Args:
        module: the reference, in eval mode; or the model that is trained, if `without_adapter`.
        score: computes a part's log-probabilities, see `Score`.
        without_adapter: the reference is `module` with its adapter disabled.
        store: where results are read from, and written to by `fill`.
    """

    def __init__(
        self, module: Any, score: Score, *, without_adapter: bool = False, store: LogpsStore | None = None
    ) -> None:
        self.module, self.score = module, score
        self.without_adapter = without_adapter
        self.store = store
        self.known = store.read() if store else {}
        self.closed = False

    def of(self, keys: Sequence[str], parts: Sequence[Mapping[str, Any]], device: Any) -> torch.Tensor:
        """(samples, sequences of a sample), of each sample; those not known yet are computed."""
        missing = {key: part for key, part in zip(keys, parts, strict=True) if key not in self.known}
        self.known |= self._computed(missing)
        dtype = torch.float64 if self._dtype() == torch.float64 else torch.float32
        return torch.tensor([self.known[key] for key in keys], dtype=dtype, device=device)

    def of_batch(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """(sequences,), of a padded batch that has no parts; nothing is kept."""
        with self._running():
            return self.score(self.module, batch)

    def fill(self, samples: Iterator[tuple[str, Mapping[str, Any]]]) -> int:
        """Compute what is not known of `samples`, pairs of key and part, and bring it to the store.

        Returns how many were computed.
        """
        computed, waiting = 0, {}
        for key, part in samples:
            if key not in self.known:
                self.known |= (found := self._computed({key: part}))
                waiting |= found
                computed += 1
            if len(waiting) >= SAVED and self.store:
                self.store.append(waiting)
                waiting = {}
        if waiting and self.store:
            self.store.append(waiting)
        return computed

    def close(self) -> None:
        """The module is about to be trained, and is no reference any more."""
        self.closed = True

    def _computed(self, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
        if not parts:
            return {}
        if self.closed:
            raise TkError(
                f"{len(parts)} samples were not there when the reference's log-probabilities were computed",
                hint="Leave `precompute_ref_log_probs` out for data that changes.",
            )
        with self._running():
            return {key: tuple(self.score(self.module, part).tolist()) for key, part in parts.items()}

    @contextmanager
    def _running(self) -> Iterator[None]:
        with torch.no_grad():
            if not self.without_adapter:
                yield
                return
            with self.module.disable_adapter():
                yield

    def _dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.module.parameters() if p.dtype.is_floating_point)


def has_adapter(module: Any) -> bool:
    """Whether the model without its adapter is still there."""
    return hasattr(module, "disable_adapter") and hasattr(module, "peft_config")


def disable_dropout(module: torch.nn.Module) -> None:
    """Make a module deterministic in training too: policy and reference must differ by their weights alone."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0

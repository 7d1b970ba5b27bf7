"""Prompts on their way into a batch, read some tokens at a time, so that who is in it already goes on meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache

from tkernel_plugins.engines.decode_batch import Forward, RoomyLayer


class Reading:
    """Prompts that are read together, padded on the left to one length."""

    def __init__(self, forward: Forward, padding_id: int, prompts: Sequence[Sequence[int]]) -> None:
        self.forward = forward
        self.prompts = prompts
        self.lengths = [len(prompt) for prompt in prompts]
        self.longest = max(self.lengths)
        self.ids = [[padding_id] * (self.longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.cache = Cache(layer_class_to_replicate=RoomyLayer)
        self.read = 0

    def step(self, tokens: int) -> torch.Tensor | None:
        """Read at most so many tokens, padding included, one of each prompt at least.

        Returns:
            The logits after each prompt, `(prompts, vocabulary)` in float32, once all are read; None before.
        """
        end = min(self.read + max(tokens // len(self.ids), 1), self.longest)
        lengths = [max(length - (self.longest - end), 0) for length in self.lengths]
        logits = self.forward([row[self.read : end] for row in self.ids], lengths, self.cache)
        self.read = end
        return logits if end == self.longest else None

"""Rows that are decoded together, each with its own length: they join and leave between two steps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64
"""Positions that a cache's buffers grow by, at least."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room for more: a step writes one position and copies nothing.

    Layers with a sliding window are kept whole too, so that rows of different lengths fit together; the
    window is in the mask.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Append new states, `(rows, heads, tokens, size)`; all states."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < end:
            capacity = end + max(ROOM, end // 4)
            self.buffers = _room(key_states, capacity), _room(value_states, capacity)
            if start:
                self.buffers[0][:, :, :start], self.buffers[1][:, :, :start] = self.keys, self.values
        keys, values = self.buffers
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def replace(self, keys: Any, values: Any) -> None:
        """Hold other states; the buffers are made anew when they grow."""
        self.keys, self.values, self.buffers = keys, values, None


def _room(like: Any, capacity: int) -> torch.Tensor:
    return like.new_empty((*like.shape[:-2], capacity, like.shape[-1]))


class Forward:
    """How a causal language model of transformers is called with rows of different lengths.

    Raises nothing: `joinable` says whether its cache is attention's alone, so that rows can join and leave.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        base = module.get_base_model() if hasattr(module, "get_base_model") else module
        names = inspect.signature(base.forward).parameters
        self.cache_name = "cache" if "cache" in names else "past_key_values"
        self.keeps = "logits_to_keep" in names
        self.joinable = {self.cache_name, "attention_mask", "position_ids"} <= set(names) and _plain(
            base.config
        )

    def __call__(self, ids: list[list[int]], lengths: Sequence[int], cache: Any) -> torch.Tensor:
        """Logits after the last id of each row, in float32: `(rows, vocabulary)`.

        Args:
            ids: new ids, padded on the left to one length.
            lengths: tokens of each row, those in `cache` and the new ones; what is more is padding on the left.
            cache: grows by the new ids.
        """
        device = self.module.get_input_embeddings().weight.device
        total = cache.get_seq_length() + len(ids[0])
        padding = total - torch.tensor(lengths)[:, None]
        places = torch.arange(total)[None]
        positions = (places - padding).clamp(min=0)[:, -len(ids[0]) :]
        output = self.module(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=(places >= padding).long().to(device),
            position_ids=positions.to(device),
            use_cache=True,
            **{self.cache_name: cache},
            **({"logits_to_keep": 1} if self.keeps else {}),
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _plain(config: Any) -> bool:
    """Every layer attends to keys and values, at positions of one dimension."""
    if getattr(config, "is_encoder_decoder", False):
        return False
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    layers = DynamicCache(config=config).layers
    return "mrope_section" not in rotary and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )


class DecodeBatch:
    """The cache of rows that are decoded together. Rows are told apart by their place."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.cache: Any = None
        self.lengths: list[int] = []

    def join(self, cache: Any, lengths: Sequence[int], rows: Sequence[int]) -> None:
        """Add rows number `rows` of a cache of prompts that were read (one may be named several times)."""
        kept = [lengths[row] for row in rows]
        new = _selected(cache, rows, max(kept))
        if self.cache is None:
            self.cache, self.lengths = new, kept
            return
        length = max(self.cache.get_seq_length(), new.get_seq_length())
        for mine, other in zip(self.cache.layers, new.layers, strict=True):
            pairs = zip((mine.keys, mine.values), (other.keys, other.values), strict=True)
            mine.replace(*(torch.cat([_padded(a, length), _padded(b, length)]) for a, b in pairs))
        self.lengths += kept

    def step(self, last: Sequence[int]) -> torch.Tensor:
        """Feed the last id of every row; the logits after it."""
        self.lengths = [length + 1 for length in self.lengths]
        return self.forward([[token] for token in last], self.lengths, self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all rows but those, and the padding that no row needs any more."""
        if len(rows) == len(self.lengths):
            return
        self.lengths = [self.lengths[row] for row in rows]
        self.cache = _selected(self.cache, rows, max(self.lengths)) if rows else None


def _selected(cache: Any, rows: Sequence[int], length: int) -> Any:
    for layer in cache.layers:
        index = torch.tensor(rows, device=layer.keys.device)
        layer.replace(*(part[:, :, -length:].index_select(0, index) for part in (layer.keys, layer.values)))
    return cache


def _padded(states: torch.Tensor, length: int) -> torch.Tensor:
    """States with zeros before them, up to `length` positions."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))

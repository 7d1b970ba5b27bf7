"""A ChatML renderer and a collator for tests, made of nothing but the kernel and torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Segment, Turn

Sample = dict[str, Any]


def chatml(tokenizer: Any) -> SegmentRenderer:
    """A ChatML renderer made of nothing but the kernel."""

    def turns(conversation: Conversation) -> list[Turn]:
        return [
            Turn(
                prompt=(
                    Segment("<|im_start|>", special=True),
                    Segment("user\n" + "".join(m.content for m in prompt)),
                    Segment("<|im_end|>", special=True),
                    Segment("<|im_start|>", special=True),
                    Segment("assistant\n"),
                ),
                reply=(Segment(reply.content), Segment("<|im_end|>", special=True)),
            )
            for prompt, reply in exchanges(conversation)
        ]

    return SegmentRenderer(
        "chatml", tokenizer, turns, stop_words=("<|im_end|>",), jinja=lambda: "{# the run's template #}"
    )


def pad(samples: Sequence[Sample], to: int = 0) -> dict[str, Any]:
    """Samples as a right-padded batch of at least `to` tokens a row."""
    length = max(to, *(len(s["input_ids"]) for s in samples))
    fill = {"input_ids": 3, "labels": -100, "attention_mask": 0, "weights": 1.0}
    batch: dict[str, Any] = {}
    for name, value in fill.items():
        rows = [s.get(name, [1] * len(s["input_ids"])) for s in samples]
        if name != "weights" or any("weights" in s for s in samples):
            batch[name] = torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
    batch["origin"] = [s["origin"] for s in samples]
    return batch

"""Replies by transformers' own `generate`: for pictures, beams, and models whose rows cannot join a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta
from tkernel.types.media import MediaRefs
from tkernel_plugins.engines.reply_row import ReplyRow

WHOLE = 16
"""Rows that are generated together; more are done one batch after another."""


def generate_whole(
    module: Any,
    rows: Sequence[ReplyRow],
    conversations: Sequence[Conversation],
    media: Any,
    padding_id: int,
    emit: Callable[[Delta], None],
    cancelled: threading.Event,
) -> None:
    """Generate the replies of `rows`, whose prompts are padded on the left.

    Without beams every token is chosen by the row's own chooser, as in a batch that is joined; `generate` does
    the forward passes. With beams, replies are given out whole, at their end.
    """
    longest = max(len(row.prompt) for row in rows)
    device = module.get_input_embeddings().weight.device
    padding = [longest - len(row.prompt) for row in rows]
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor(
            [[padding_id] * pad + list(row.prompt) for pad, row in zip(padding, rows, strict=True)]
        ),
        "attention_mask": torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
    }
    if media is not None:
        inputs |= dict(media.collate([MediaRefs(c.images, c.videos, c.audios) for c in conversations]))
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    sampling = rows[0].chooser.sampling
    stop_ids = list(rows[0].stop_ids)
    limit = max(row.limit for row in rows)
    if sampling.num_beams == 1:
        config = _config(limit, padding_id)
        choosing = [_Choose(rows, emit)]
        ends = [_Ended(rows, cancelled)]
        module.generate(**inputs, generation_config=config, logits_processor=choosing, stopping_criteria=ends)
        return
    drawing = (
        {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        if rows[0].chooser.draws
        else {}
    )
    config = _config(
        limit,
        padding_id,
        do_sample=rows[0].chooser.draws,
        num_beams=sampling.num_beams,
        repetition_penalty=sampling.repetition_penalty,
        length_penalty=sampling.length_penalty,
        eos_token_id=stop_ids or None,
        **drawing,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(rows[0].chooser.seed)
        ids = module.generate(**inputs, generation_config=config, stopping_criteria=[_Ended((), cancelled)])
    for row, said in zip(rows, ids[:, longest:].tolist(), strict=True):
        for token in said:
            if not row.done and (delta := row.take(token)):
                emit(delta)
        if not row.done:
            emit(row.end())


def _config(limit: int, padding_id: int, **more: Any) -> GenerationConfig:
    """All that matters, said explicitly: what is left open is filled from the model's own file."""
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "do_sample": False, "num_beams": 1}
    return GenerationConfig(
        max_new_tokens=limit,
        pad_token_id=padding_id,
        use_cache=True,
        **{**plain, "repetition_penalty": 1.0, "length_penalty": 1.0, "eos_token_id": None, **more},
    )


class _Choose(LogitsProcessor):  # type: ignore[misc]
    """Leaves to `generate` no choice but the token that each row's chooser takes."""

    def __init__(self, rows: Sequence[ReplyRow], emit: Callable[[Delta], None]) -> None:
        self.rows = rows
        self.emit = emit

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        for number, row in enumerate(self.rows):
            if not row.done:
                token, logprob = row.chooser.choose(scores[number].float())
                if (delta := row.take(token, logprob)) is not None:
                    self.emit(delta)
            chosen[number, row.last] = 0
        return chosen


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Ends rows that are done, and all of them when the request is cancelled."""

    def __init__(self, rows: Sequence[ReplyRow], cancelled: threading.Event) -> None:
        self.rows = rows
        self.cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        device = input_ids.device
        if self.cancelled.is_set() or not self.rows:
            return torch.full((input_ids.shape[0],), self.cancelled.is_set(), device=device)
        return torch.tensor([row.done for row in self.rows], device=device)

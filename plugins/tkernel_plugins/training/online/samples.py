"""Prompts with completions as batches, and the log-probabilities of the completions' tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Sample = dict[str, Any]
"""One completion: `prompt` and `completion` (lists of ids), `learned` (False for one that is masked),
`origin`, and what a trainer adds: numbers, and tensors with one value for each token of the completion."""

OWN = ("prompt", "completion", "learned", "origin")


def batch_of(samples: Sequence[Sample], padding: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Samples as one batch, padded on the right.

    `input_ids` and `attention_mask` are (batch, length). Whatever belongs to tokens of completions is
    (batch, width): column `c` is the token at position `start + c + 1`, which the logits at `start + c`
    predict. `mask` is 1 at the tokens that are learned, `lengths` (batch) counts those of each completion
    that has any. Per-token values are 0 outside the completions; numbers are (batch).
    """
    lengths = [len(sample["prompt"]) + len(sample["completion"]) for sample in samples]
    longest, start = max(lengths), min(len(sample["prompt"]) for sample in samples) - 1
    ids = torch.full((len(samples), longest), padding)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(len(samples), longest - 1 - start)
    values: dict[str, torch.Tensor] = {}
    for name, first in samples[0].items():
        if name not in OWN:
            is_row = isinstance(first, torch.Tensor) and first.dim() == 1
            dtype = first.dtype if isinstance(first, torch.Tensor) else torch.float64
            values[name] = torch.zeros(mask.shape if is_row else len(samples), dtype=dtype)
    for row, sample in enumerate(samples):
        ids[row, : lengths[row]] = torch.tensor([*sample["prompt"], *sample["completion"]])
        attention[row, : lengths[row]] = 1
        own = slice(len(sample["prompt"]) - 1 - start, lengths[row] - 1 - start)
        mask[row, own] = float(sample["learned"])
        for name, value in values.items():
            value[(row, own) if value.dim() == 2 else row] = sample[name]
    tensors = {"input_ids": ids, "attention_mask": attention, "mask": mask, **values}
    return {name: tensor.to(device) for name, tensor in tensors.items()} | {
        "start": start,
        "origin": [sample["origin"] for sample in samples],
    }


def rows_of(values: torch.Tensor, batch: Mapping[str, Any], samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Per-token values of a batch, (batch, width), as one tensor for each completion."""
    rows = []
    for row, sample in enumerate(samples):
        first = len(sample["prompt"]) - 1 - int(batch["start"])
        rows.append(values[row, first : first + len(sample["completion"])].detach().cpu().clone())
    return rows


def completion_logits(
    model: torch.nn.Module, batch: Mapping[str, Any], states: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """The logits that predict columns 0 to width - 1, (batch, width, vocabulary), in float32 at least.

    `states`, if it is given, gets the last of the output's hidden states at the same places, (batch, width, ...).
    """
    start, length = int(batch["start"]), batch["input_ids"].shape[1]
    kept: dict[str, Any] = {}
    if _takes_logits_to_keep(model):
        kept["logits_to_keep"] = torch.arange(start, length - 1, device=batch["input_ids"].device)
    if states is not None:
        kept["output_hidden_states"] = True
    outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **kept)
    if states is not None:
        states.append(outputs["hidden_states"][-1][:, start : length - 1])
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    logits = logits if "logits_to_keep" in kept else logits[:, start : length - 1]
    return logits if logits.dtype == torch.float64 else logits.float()


def logps_of(logits: torch.Tensor, batch: Mapping[str, Any], temperature: float = 1.0) -> torch.Tensor:
    """The log-probability of each token of the completions, (batch, width); outside of them it means nothing."""
    tokens = batch["input_ids"][:, int(batch["start"]) + 1 :]
    logits = logits / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy_of(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The entropy of each token's distribution in nats, (batch, width)."""
    logps = (logits / temperature).log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def _takes_logits_to_keep(model: torch.nn.Module) -> bool:
    inner: Any = getattr(model, "module", model)  # inside DDP
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "logits_to_keep" in inspect.signature(inner.forward).parameters

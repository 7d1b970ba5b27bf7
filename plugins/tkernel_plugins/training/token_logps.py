"""Log-probabilities of the learned tokens of sequences, from one row without padding or from padded rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tkernel_plugins.training.fused.branches import Branches, require
from tkernel_plugins.training.fused.head import linear_logps
from tkernel_plugins.training.fused.model import IGNORED, SplitHead

BESIDE = ("labels", "weights")
"""What a padded batch has beside the model's input."""


@dataclass(frozen=True)
class TokenLogps:
    """`values` and `weights` of all learned tokens, (tokens,), the sequences one after another."""

    values: torch.Tensor
    weights: torch.Tensor
    lengths: Sequence[int]

    def sums(self, scale: torch.Tensor | None = None) -> torch.Tensor:
        """(sequences,): the weighted sum over each sequence's tokens, perhaps each times its `scale`."""
        values = self.values * self.weights.to(self.values.dtype)
        return self._added(values if scale is None else values * scale.to(values))

    def counts(self) -> torch.Tensor:
        """(sequences,): the sum of each sequence's weights."""
        return self._added(self.weights.to(self.values.dtype))

    def _added(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.sum() for part in numbers.split(list(self.lengths))])


class TokenScorer:
    """Computes `TokenLogps` of batches and rows with a model, and no logits where none are needed.

    Args:
        module: a causal language model of transformers, or a PEFT model around one.
    """

    def __init__(self, module: Any) -> None:
        self.split = None if takes_a_prompt(module) else SplitHead.of(module)

    def row(self, model: Any, row: Mapping[str, Any]) -> TokenLogps:
        """Of a row as `sequence_rows` makes them; the model attends by `branches`."""
        split = self.split
        if split is None:
            raise TypeError("rows of several sequences need a model whose output layer can be taken off")
        device = row["input_ids"].device
        require(split.model.config)

        def logps() -> torch.Tensor:
            inputs = {name: row[name] for name in ("input_ids", "position_ids")}
            hidden = split.hidden({**inputs, "branches": Branches.of(row["pieces"], device)})
            return linear_logps(hidden[0][row["predicted_by"]], split.head.weight, row["targets"])

        return TokenLogps(as_forward(model, logps), row["weights"], row["lengths"])

    def padded(self, model: Any, batch: Mapping[str, Any]) -> TokenLogps:
        """Of a batch of padded sequences with `labels` and perhaps `weights`."""
        inputs = {name: value for name, value in batch.items() if name not in BESIDE}
        labels = batch["labels"]
        where = labels[:, 1:].ne(IGNORED)
        if self.split is not None:
            split = self.split
            found = as_forward(model, lambda: split.logps(inputs, labels)[where])
        else:
            logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] :]
            logits = logits[:, :-1][where].float()
            found = torch.log_softmax(logits, -1).gather(1, labels[:, 1:][where][:, None])[:, 0]
        weights = batch.get("weights")
        counted = torch.ones_like(found) if weights is None else weights[:, 1:][where]
        return TokenLogps(found, counted, where.sum(1).tolist())


def takes_a_prompt(module: Any) -> bool:
    """Whether an adapter puts virtual tokens before the input."""
    return any(config.is_prompt_learning for config in getattr(module, "peft_config", {}).values())


def as_forward(model: Any, function: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`function()`, run as the forward pass of `model` where that is wrapped to exchange gradients."""
    if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return function()
    inner = model.module
    own = inner.__dict__.get("forward")
    inner.forward = function
    try:
        result: torch.Tensor = model()
    finally:
        del inner.forward
        if own is not None:
            inner.forward = own
    return result

"""A causal language model split at its output layer: hidden states here, loss there."""

from __future__ import annotations

from typing import Any

import torch

from tkernel_plugins.training.fused.head import linear_cross_entropy, linear_logps

IGNORED = -100
PROBE = 6
"""Tokens of the input on which the split is tried."""


class SplitHead:
    """What stands before and after the hidden states of a model's last layer.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.

    `SplitHead.of(model)` gives None for a model whose logits are not `hidden @ weight.T`, such as one that
    scales or caps them, adds a bias, or has an adapter on its output layer.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.body = getattr(self.model, self.model.base_model_prefix, None)
        self.head = self.model.get_output_embeddings()

    @classmethod
    def of(cls, model: Any) -> SplitHead | None:
        """The split of `model`, if it computes the same logits; they are compared on random tokens."""
        if not hasattr(model, "get_output_embeddings"):
            return None
        split = cls(model)
        if type(split.head) is not torch.nn.Linear or split.head.bias is not None or split.body is None:
            return None
        if split.body is split.model or "forward" in split.model.__dict__ or _adds_to_its_loss(split.model):
            return None
        first = split.head.weight
        if first.is_meta or hasattr(first, "ds_id"):
            return None
        ids = torch.arange(PROBE, device=first.device)[None] % first.shape[0]
        training = split.model.training
        split.model.eval()
        try:
            with torch.no_grad():
                expected, hidden = split._both(ids)
                found = torch.nn.functional.linear(hidden, first).float()
        finally:
            split.model.train(training)
        tolerance = (1e-5 if first.dtype == torch.float32 else 1e-2) * expected.abs().max()
        return split if bool((expected - found).abs().max() <= tolerance) else None

    def hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(batch, length, width), what the output layer reads."""
        hidden: torch.Tensor = self.body(**inputs, use_cache=False).last_hidden_state
        return hidden

    def _both(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's own logits of `ids`, and what `hidden` gives for them."""
        seen: list[torch.Tensor] = []

        def note(_body: Any, _args: Any, given: dict[str, Any], output: Any) -> None:
            # Asked for the ids and for nothing else, as `hidden` asks: a forward of the whole body is saved.
            others = (value for name, value in given.items() if name != "input_ids")
            if given.get("input_ids") is ids and all(value is None or value is False for value in others):
                seen.append(output.last_hidden_state)

        hook = self.body.register_forward_hook(note, with_kwargs=True)
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits.float()
        finally:
            hook.remove()
        return logits, seen[0] if len(seen) == 1 else self.hidden({"input_ids": ids})

    def loss(
        self,
        inputs: dict[str, Any],
        labels: torch.Tensor,
        items: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `token_loss` on the model's logits: cross entropy of each label but the first, by `items`."""
        hidden, targets, where = self._predicted(inputs, labels)
        scale = (
            torch.ones_like(targets, dtype=torch.float32)
            if weights is None
            else weights[:, 1:][where].float()
        )
        return linear_cross_entropy(hidden, self.head.weight, targets, scale / items)

    def logps(self, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """(batch, length - 1), the log-probability of each label given what is before it; 0 where it is -100."""
        hidden, targets, where = self._predicted(inputs, labels)
        found = linear_logps(hidden, self.head.weight, targets)
        return torch.zeros(where.shape, dtype=found.dtype, device=found.device).masked_scatter(where, found)

    def _predicted(
        self, inputs: dict[str, Any], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states (predicted, width) from which a label is predicted, the labels, and where they are."""
        hidden = self.hidden(inputs)
        where = labels[:, 1:].ne(IGNORED)
        return hidden[:, :-1][where], labels[:, 1:][where], where


def _adds_to_its_loss(model: Any) -> bool:
    """Whether the model's own loss has more than the cross entropy: that of a router, say."""
    return bool(getattr(model.config, "output_router_logits", False))

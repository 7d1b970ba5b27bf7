"""The trainer of next-token prediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import TrainingArguments

from tkernel.errors import SlotError
from tkernel_plugins.training.losses import right_predictions, supervised_weight, token_loss
from tkernel_plugins.training.stage_trainer import Batch, StageTrainer


class SupervisedTrainer(StageTrainer):
    """Trains on batches of `input_ids`, `attention_mask`, `labels` and what else the model takes.

    The loss of a step is the mean over the supervised tokens of all its micro-batches and devices, so it
    depends neither on padding nor on how the batch is split. `weights` (batch, length), the weight of each
    label, is not given to the model.

    A model that accepts loss keyword arguments computes the loss itself (that keeps fused kernels and
    auxiliary losses); for others, and for weights and label smoothing, `token_loss` does. A `loss`
    replaces both.

    Args:
        loss: function of outputs, labels, `num_items_in_batch` (and `weights`, if it can take them).
        accuracy: count right predictions in evaluation.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        loss: Callable[..., torch.Tensor] | None = None,
        accuracy: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.loss = loss
        self.accuracy = accuracy

    def items_of(self, batch: Batch) -> torch.Tensor:
        """The supervised weight of the micro-batch."""
        return supervised_weight(batch["labels"], batch.get("weights"))

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The sum of the losses of the micro-batch's tokens, divided by `items`, and the model's output."""
        weights, labels = inputs.pop("weights", None), inputs["labels"]
        if self._model_has_loss(weights):
            outputs = model(**inputs, num_items_in_batch=items)
            return outputs["loss"] if isinstance(outputs, dict) else outputs[0], outputs
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return self._loss_function(weights)(outputs, labels, num_items_in_batch=items), outputs

    def _model_has_loss(self, weights: torch.Tensor | None) -> bool:
        return bool(
            self.loss is None
            and weights is None
            and not self.args.label_smoothing_factor
            and self.model_accepts_loss_kwargs
        )

    def _loss_function(self, weights: torch.Tensor | None) -> Callable[..., torch.Tensor]:
        if self.loss is None:
            return partial(token_loss, weights=weights, label_smoothing=self.args.label_smoothing_factor)
        if weights is None:
            return self.loss
        if "weights" not in inspect.signature(self.loss).parameters:
            raise SlotError(
                f"the data has weights and the contributed loss {self.loss!r} takes none",
                hint="Give the function a keyword argument `weights`, or take the weights out of the data.",
            )
        return partial(self.loss, weights=weights)

    def note_evaluation(self, inputs: Batch, outputs: Any) -> None:
        """Right predictions, with `compute_accuracy`."""
        if self.accuracy:
            self.note("accuracy", right_predictions(outputs, inputs["labels"]), self.items_of(inputs))

"""The trainer of next-token prediction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from tkernel.errors import SlotError, TkError
from tkernel_plugins.training.anchor import Anchor
from tkernel_plugins.training.fused.choose import fused_forward
from tkernel_plugins.training.fused.forward import FusedForward, Wanted
from tkernel_plugins.training.fused.pieces import TEXT
from tkernel_plugins.training.losses import (
    IGNORED,
    Objective,
    right_predictions,
    supervised_weight,
    token_loss,
)
from tkernel_plugins.training.stage_trainer import Batch, StageTrainer


class SupervisedTrainer(StageTrainer):
    """Trains on batches of `input_ids`, `attention_mask`, `labels` and what else the model takes.

    The loss of a step is the mean over the supervised tokens of all its micro-batches and devices, so it
    depends neither on padding nor on how the batch is split. `weights` (batch, length), the weight of each
    label, is not given to the model.

    Where it computes the same, text is trained on with `FusedForward`. Otherwise a model that accepts loss
    keyword arguments computes the loss itself (that keeps auxiliary losses); for others, for weights and for
    other objectives `token_loss` does. A contributed `loss` replaces all of them.

    Args:
        loss: function of outputs, labels, `num_items_in_batch` (and `weights`, if it can take them).
        accuracy: count right predictions in evaluation.
        objective: the loss of a token; by default cross entropy with the smoothing that the arguments ask for.
        anchor: the reference of an objective that has one.
        fused: `auto` uses `FusedForward` where it can, True insists.
        longest: most tokens of a sample, if that is known.
        count_first: divide by all labels in training, also by the first of each row, which nothing predicts.

    Raises:
        TkError: `fused` is True and cannot be done; the message says why.
    """

    surprise = "loss"
    """The metric that is the cross entropy, whose exponential is the perplexity."""

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        loss: Callable[..., torch.Tensor] | None = None,
        accuracy: bool = False,
        objective: Objective | None = None,
        anchor: Anchor | None = None,
        fused: Literal["auto"] | bool = "auto",
        longest: int | None = None,
        count_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.loss = loss
        self.accuracy = accuracy
        self.objective = objective or Objective(smoothing=args.label_smoothing_factor)
        self.anchor = anchor
        self.longest = longest
        self.count_first = count_first
        self.fused: FusedForward | None = None
        if fused:
            self._fuse(insist=fused is True)

    def _fuse(self, *, insist: bool) -> None:
        found: FusedForward | str = "a loss was contributed, which wants logits"
        if self.anchor is not None and not self.anchor.is_split:
            found = "the output layer of its reference cannot be taken off"
        elif self.loss is None:
            found = fused_forward(self.model, self.args, longest=self.longest)
        if isinstance(found, FusedForward):
            self.fused = found
        elif insist:
            raise TkError(
                f"`fused: true` cannot be done: {found}", hint="Use `fused: auto`, or leave it out."
            )

    def items_of(self, batch: Batch) -> torch.Tensor:
        """The supervised weight of the micro-batch."""
        return supervised_weight(batch["labels"], batch.get("weights"))

    def trained_items_of(self, batch: Batch) -> torch.Tensor:
        """`items_of`, and with `count_first` the first label of each row."""
        return batch["labels"].ne(IGNORED).sum() if self.count_first else self.items_of(batch)

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The sum of the losses of the micro-batch's tokens, divided by `items`, and the model's output."""
        weights, labels = inputs.pop("weights", None), inputs["labels"]
        if self.fused is not None and inputs.keys() <= TEXT:
            outputs = model(**inputs, wanted=self._wanted(items, weights))
            return outputs["loss"], outputs
        if self._model_has_loss(weights):
            outputs = model(**inputs, num_items_in_batch=items)
            return outputs["loss"] if isinstance(outputs, dict) else outputs[0], outputs
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs)
        return self._loss_function(weights, inputs)(outputs, labels, num_items_in_batch=items), outputs

    def _wanted(self, items: torch.Tensor, weights: torch.Tensor | None) -> Wanted:
        return Wanted(
            items,
            weights,
            self.objective,
            reference=None if self.anchor is None else self.anchor.states,
            count_right=self.accuracy and not self.model.training,
            # Noise is scaled by the length of the row that it is added to.
            join=not self.args.neftune_noise_alpha,
        )

    def _model_has_loss(self, weights: torch.Tensor | None) -> bool:
        return bool(
            self.loss is None
            and weights is None
            and self.objective.is_plain
            and self.model_accepts_loss_kwargs
        )

    def _loss_function(self, weights: torch.Tensor | None, inputs: Batch) -> Callable[..., torch.Tensor]:
        if self.loss is None:
            anchors = None if self.anchor is None else self.anchor.logits(inputs)
            return partial(token_loss, weights=weights, objective=self.objective, anchors=anchors)
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
            counted = "right" in outputs
            right = outputs["right"] if counted else right_predictions(outputs, inputs["labels"])
            self.note("accuracy", right, self.items_of(inputs))

    def trained_module(self) -> torch.nn.Module:
        """The module as it was before it was trained, with other weights."""
        module = super().trained_module()
        if self.fused is not None:
            self.fused.undo()
        return module

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As in `StageTrainer`, with the perplexity where the cross entropy is known."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.loss is None and self.objective.is_plain:
            loss = output.metrics[f"{metric_key_prefix}_{self.surprise}"]
            output.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(loss) if loss < 700 else math.inf
        return output

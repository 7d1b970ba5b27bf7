"""The model that training is compared with: what it was before, or another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.fused.model import SplitHead


class Anchor:
    """Gives logits, or hidden states and output weight, without gradients and in eval mode.

    Args:
        model: the trained model of PEFT, whose adapter is switched off; or the model itself with `second`.
        second: a frozen model of its own.
    """

    def __init__(self, model: Any, second: Any = None) -> None:
        self.model = model if second is None else second
        self.is_own = second is None
        self._split = SplitHead(self.model) if second is None else SplitHead.of(second)

    @property
    def is_split(self) -> bool:
        """Whether `states` can be asked for; its own model is as the trained one."""
        return self._split is not None

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        modes = {part: part.training for part in self.model.modules()} if self.model.training else {}
        self.model.eval()
        try:
            with torch.no_grad():
                if self.is_own:
                    with self.model.disable_adapter():
                        yield self.model
                else:
                    yield self.model
        finally:
            for part, training in modes.items():
                part.training = training

    def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(batch, length, vocabulary)."""
        with self._asked() as model:
            logits: torch.Tensor = model(**inputs).logits
        return logits

    def states(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (batch, length, width) and the output layer's weight (vocabulary, width)."""
        if self._split is None:
            raise TypeError(f"the output layer of {type(self.model).__name__} cannot be taken off")
        with self._asked():
            return self._split.hidden(inputs), self._split.head.weight


def anchor_of(request: StageRequest) -> Anchor:
    """The model that training starts from: without the adapter if nothing but a new one is trained, else
    loaded once more.

    Raises:
        TkError: it cannot be loaded, for the run's model was given in memory.
    """
    module = request.bundle.module
    adapted = hasattr(module, "disable_adapter") and not request.settings.get("adapter_name_or_path")
    base = [p for name, p in module.named_parameters() if "lora_" not in name and p.requires_grad]
    if adapted and not base:
        return Anchor(module)
    if request.load_model is None:
        raise TkError(
            "`use_asft_loss` compares with the model that training starts from, which is trained itself here",
            hint="Train a LoRA adapter, or give the model as `model_name_or_path`.",
        )
    return Anchor(module, request.load_model("reference").module.to(next(module.parameters()).device))

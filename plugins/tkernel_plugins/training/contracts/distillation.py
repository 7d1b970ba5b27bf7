"""The contract of `distill`: the teacher's distributions in place of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tkernel.testing import StageContract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation


class DistillationContract(StageContract):
    """`StageContract` with the loss of `distill` at temperature 1."""

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The weighted mean over learned tokens of a divergence from the teacher and the cross entropy."""
        options = self.bound_options()
        teacher = self.other_model("teacher").module
        total, count = torch.zeros(()), 0.0
        for encoded in self.renderer(bundle).encode([Conversation.from_row(row) for row in rows]):
            ids = torch.tensor([encoded.input_ids])
            student = bundle.module(input_ids=ids).logits[0, :-1].softmax(-1)
            target = teacher(input_ids=ids).logits[0, :-1].softmax(-1)
            labels = torch.tensor(encoded.labels[1:])
            weights = torch.tensor(encoded.weights or [1.0] * len(encoded.labels))[1:]
            mixture = options.beta * target + (1 - options.beta) * student
            pairs = {0.0: (target, student), 1.0: (student, target)}
            if options.beta in pairs:
                p, q = pairs[options.beta]
                distance = (p * (p / q).log()).sum(-1)
            else:
                parts = [(p * (p / mixture).log()).sum(-1) for p in (target, student)]
                distance = options.beta * parts[0] + (1 - options.beta) * parts[1]
            surprise = -student[torch.arange(len(labels)), labels.clamp(min=0)].log()
            loss = (1 - options.ce_weight) * distance + options.ce_weight * surprise
            total = total + (loss * weights * (labels >= 0)).sum()
            count += float(weights[labels >= 0].sum())
        return total / count

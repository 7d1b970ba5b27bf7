"""The contract of stages that learn from pairs of replies, or from replies that were judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.testing.stages import IGNORED, StageContract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message, message_to_dict


@dataclass(frozen=True)
class Reply:
    """A reply as the independent loop of a suite sees it; tensors without dimensions."""

    logp: Any
    """The sum of its tokens' log-probabilities under the model, each times its weight."""
    ref_logp: Any
    """The same under the reference; 0 without one."""
    tokens: float
    """The sum of its tokens' weights."""


class PreferenceStageContract(StageContract):
    """What `StageContract` checks, of a stage that learns from pairs, and what only pairs can show.

    A stage with another loss overrides `pair_loss`, one without log-probabilities `reference_loss`.
    """

    beta: ClassVar[float] = 0.1
    """The stage's beta."""
    has_reference: ClassVar[bool] = True
    """Whether the stage, with the suite's `options`, loads the role `reference` for its loss."""
    margins: ClassVar[str] = "rewards/margins"
    """The name under which the difference between chosen and rejected is logged."""
    swapped = False

    def rows(self, said: Sequence[tuple[str, str]], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
        """Pairs: each prompt with its reply, which was chosen, and its reply backwards, which was not."""
        weights = weights or [1.0] * len(said)
        return [
            {
                "messages": [message_to_dict(Message("user", ask))],
                "chosen": [message_to_dict(Message("assistant", reply, weight=weight))],
                "rejected": [message_to_dict(Message("assistant", reply[::-1] + " 12"))],
                "tools": "",
                "origin": {"file": "contract.jsonl", "row": position, "line": position + 1},
            }
            for position, ((ask, reply), weight) in enumerate(zip(said, weights, strict=True))
        ]

    def further_models(self) -> Iterable[str]:
        """None where the suite has no reference, though the stage could load one."""
        return super().further_models() if self.has_reference else ()

    def pair_loss(self, chosen: Reply, rejected: Reply) -> Any:
        """The loss of one pair: DPO (Rafailov et al. 2023, arXiv:2305.18290)."""
        import torch

        margin = (chosen.logp - chosen.ref_logp) - (rejected.logp - rejected.ref_logp)
        return -torch.nn.functional.logsigmoid(self.beta * margin)

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The mean of `pair_loss` over the rows, computed reply by reply and unpadded."""
        reference = self.other_model("reference") if self.has_reference else None
        losses = [
            self.pair_loss(*(self.reply(bundle, reference, row, side) for side in ("chosen", "rejected")))
            for row in rows
        ]
        return sum(losses) / len(losses)

    def learned_positions(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replies to one prompt may share its positions."""

    def reply(
        self, bundle: ModelBundle, reference: ModelBundle | None, row: Mapping[str, Any], column: str
    ) -> Reply:
        """The reply in `column` of a row, after the row's prompt."""
        import torch

        conversation = Conversation.from_row({**row, "messages": [*row["messages"], *row[column]]})
        (encoded,) = self.renderer(bundle).encode([conversation])
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor(encoded.labels[1:])
        weights = torch.tensor(encoded.weights or [1.0] * len(encoded.labels))[1:] * labels.ne(IGNORED)

        def logp(module: Any) -> Any:
            logps = module(input_ids=ids).logits[0, :-1].log_softmax(-1)
            return (logps.gather(1, labels.clamp(min=0)[:, None])[:, 0] * weights).sum()

        with torch.no_grad():
            ref_logp = torch.zeros(()) if reference is None else logp(reference.module)
        return Reply(logp(bundle.module), ref_logp, float(weights.sum()))

    def test_the_loss_slot_replaces_the_loss(self, tmp_path: Path) -> None:
        """Not for this stage: such a loss is a function of logits and labels of one sequence."""
        pytest.skip("the stage's loss is over pairs")

    def test_swapped_pairs_flip_the_margin(self, tmp_path: Path) -> None:
        """The logged margin of pairs whose sides are exchanged is that of the pairs with the other sign."""
        margins = []
        for name in ("as they are", "swapped"):
            self.swapped = name == "swapped"
            arguments: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 4}
            _, logs = self.run(tmp_path / name, **arguments)
            margins.append(next(entry[self.margins] for entry in logs if self.margins in entry))
        assert margins[0] != 0
        assert margins[1] == pytest.approx(-margins[0], rel=1e-4, abs=1e-5)

    def dataset(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows in memory, with their sides exchanged where a check asks for that."""
        if self.swapped:
            rows = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        return super().dataset(rows)

    def test_the_reference_stays_as_it_is(self, tmp_path: Path) -> None:
        """Training moves no parameter of the reference, bit by bit."""
        if not self.has_reference:
            pytest.skip("the stage has no reference")
        before = {name: p.clone() for name, p in self.other_model("reference").module.named_parameters()}
        given = len(self.loaded)
        self.run(tmp_path, max_steps=2, per_device_train_batch_size=4)
        (reference,) = self.loaded[given:]
        moved = [name for name, p in reference.module.named_parameters() if not p.equal(before[name])]
        assert moved == []


class FeedbackStageContract(PreferenceStageContract):
    """What `StageContract` checks, of a stage that learns from replies of which each was liked or not.

    Rows have a column `other` beside: the completion that does not belong to the prompt, which is that of
    the row before.
    """

    def rows(self, said: Sequence[tuple[str, str]], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
        """Every second completion was liked."""
        weights = weights or [1.0] * len(said)
        replies = [
            [message_to_dict(Message("assistant", reply, weight=weight))]
            for (_, reply), weight in zip(said, weights, strict=True)
        ]
        return [
            {
                "messages": [message_to_dict(Message("user", ask))],
                "completion": replies[position],
                "other": replies[position - 1],
                "label": position % 2 == 0,
                "tools": "",
                "origin": {"file": "contract.jsonl", "row": position, "line": position + 1},
            }
            for position, (ask, _) in enumerate(said)
        ]

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The mean over the rows of KTO's loss (Ethayarajh et al. 2024, arXiv:2402.01306)."""
        import torch

        reference = self.other_model("reference") if self.has_reference else None
        replies = [self.reply(bundle, reference, row, "completion") for row in rows]
        others = [self.reply(bundle, reference, row, "other") for row in rows]
        kl = torch.stack([(other.logp - other.ref_logp).detach() for other in others]).mean().clamp(min=0)
        losses = [
            1 - torch.sigmoid(self.beta * (1 if row["label"] else -1) * (reply.logp - reply.ref_logp - kl))
            for row, reply in zip(rows, replies, strict=True)
        ]
        return sum(losses) / len(losses)

    def dataset(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Rows in memory, with their labels exchanged where a check asks for that."""
        if self.swapped:
            rows = [{**row, "label": not row["label"]} for row in rows]
        return StageContract.dataset(self, [{n: v for n, v in row.items() if n != "other"} for row in rows])

    def test_the_split_into_micro_batches_does_not_matter(self, tmp_path: Path) -> None:
        """Not for this stage: the divergence from the reference is estimated in each micro-batch."""
        pytest.skip("the stage's loss has a term of the whole micro-batch")

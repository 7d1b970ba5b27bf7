"""The contract of `rm`: pairs are scored by a head on the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from tkernel.testing import PreferenceStageContract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel_plugins.training import value_head

CENTERED = 0.1


class RewardContract(PreferenceStageContract):
    """`PreferenceStageContract` with a value head, and no reference."""

    has_reference = False
    # Without it the bias of the head has no gradient.
    options: ClassVar[Mapping[str, Any]] = {"center_rewards_coefficient": CENTERED}

    def bundle(self) -> ModelBundle:
        """With a head, which is trained."""
        bundle = super().bundle()
        value_head.attach(bundle.module, seed=3)
        return bundle

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """`-log sigmoid` of the difference between the scores of the last tokens, and their squared sum."""
        scores = torch.stack([torch.stack(list(self.scores(bundle, row))) for row in rows])
        losses = -torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1])
        return (losses + CENTERED * scores.sum(1) ** 2).mean()

    def scores(self, bundle: ModelBundle, row: Mapping[str, Any]) -> Iterator[torch.Tensor]:
        """Of the chosen and of the rejected reply, each computed alone."""
        for side in ("chosen", "rejected"):
            conversation = Conversation.from_row({**row, "messages": [*row["messages"], *row[side]]})
            (encoded,) = self.renderer(bundle).encode([conversation])
            ids = torch.tensor([encoded.input_ids])
            hidden = bundle.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
            yield bundle.module.v_head.summary(hidden)[0]

    def test_the_weights_of_messages_scale_their_tokens(self, tmp_path: Path) -> None:
        """Not for this stage: it scores replies, not tokens."""
        pytest.skip("the loss has no tokens")

    def test_the_result_is_saved_and_loads(self, tmp_path: Path) -> None:
        """The output folder holds the model and the head."""
        result, _ = self.run(tmp_path, max_steps=2, per_device_train_batch_size=4)
        assert result.output_dir is not None
        loaded = AutoModelForCausalLM.from_pretrained(result.output_dir)
        value_head.load(loaded, result.output_dir)
        trained = result.bundle.module.state_dict()
        assert all(tensor.equal(trained[name]) for name, tensor in loaded.state_dict().items())

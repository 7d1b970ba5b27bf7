"""The built-in stages keep the contract."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from tkernel.testing import FeedbackStageContract, PreferenceStageContract, StageContract
from tkernel.testing.stages import IGNORED
from tkernel.types.conversation import Conversation


class TestSft(StageContract):
    plugin = "sft"
    log_file = "trainer_log.jsonl"


class TestDpo(PreferenceStageContract):
    plugin = "dpo"
    log_file = "trainer_log.jsonl"
    options = {"ref_model": "another"}


class TestKto(FeedbackStageContract):
    plugin = "kto"
    log_file = "trainer_log.jsonl"
    options = {"ref_model": "another"}


class TestRm(PreferenceStageContract):
    plugin = "rm"
    log_file = "trainer_log.jsonl"
    has_reference = False
    # Without it the bias of the head has no gradient.
    options = {"center_rewards_coefficient": 0.1}

    def bundle(self):
        """With a head, which is trained."""
        from tkernel_plugins.training import value_head

        bundle = super().bundle()
        value_head.attach(bundle.module, seed=3)
        return bundle

    def reference_loss(self, bundle, rows):
        """`-log sigmoid` of the difference between the scores of the last tokens, and their squared sum."""
        scores = torch.stack([torch.stack(list(self.scores(bundle, row))) for row in rows])
        losses = -torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1])
        return (losses + 0.1 * scores.sum(1) ** 2).mean()

    def scores(self, bundle, row):
        """Of the chosen and of the rejected reply, each computed alone."""
        for side in ("chosen", "rejected"):
            conversation = Conversation.from_row({**row, "messages": [*row["messages"], *row[side]]})
            (encoded,) = self.renderer(bundle).encode([conversation])
            ids = torch.tensor([encoded.input_ids])
            hidden = bundle.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
            yield bundle.module.v_head.summary(hidden)[0]

    def test_the_weights_of_messages_scale_their_tokens(self, tmp_path):
        """Not for this stage: it scores replies, not tokens."""
        pytest.skip("the loss has no tokens")

    def test_the_result_is_saved_and_loads(self, tmp_path):
        """The output folder holds the model and the head."""
        from tkernel_plugins.training import value_head

        result, _ = self.run(tmp_path, max_steps=2, per_device_train_batch_size=4)
        loaded = AutoModelForCausalLM.from_pretrained(result.output_dir)
        value_head.load(loaded, result.output_dir)
        trained = result.bundle.module.state_dict()
        assert all(tensor.equal(trained[name]) for name, tensor in loaded.state_dict().items())


class TestPt(StageContract):
    """Documents, one a row; blocks without a gap have tests of their own."""

    plugin = "pt"
    log_file = "trainer_log.jsonl"

    def rows(self, said, weights=()):
        origins = [{"file": "contract.jsonl", "row": row, "line": row + 1} for row in range(len(said))]
        return [
            {"text": " ".join(pair), "origin": origin} for pair, origin in zip(said, origins, strict=True)
        ]

    def reference_loss(self, bundle, rows):
        """Every token but the first is learned; the one that fills batches is not."""
        losses = []
        for ids, labels in self.encoded(bundle, rows):
            logits = bundle.module(input_ids=torch.tensor([ids])).logits[0, :-1]
            losses.append(F.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="none"))
            losses[-1] = losses[-1][labels[1:] != IGNORED]
        return torch.cat(losses).mean()

    def encoded(self, bundle, rows):
        tokenizer = bundle.tokenizer
        for row in rows:
            ids = [*tokenizer.encode(row["text"], add_special_tokens=False), tokenizer.eos_token_id]
            yield ids, torch.tensor([IGNORED if token == tokenizer.pad_token_id else token for token in ids])

    def learned_positions(self, bundle, rows):
        return sum(int(labels[1:].ne(IGNORED).sum()) for _, labels in self.encoded(bundle, rows))

    def run(self, output_dir, *, options=None, **kwargs):
        options = dict(options or {})
        if not options.keys() & {"packing", "neat_packing"}:
            options["packing"] = False
        return super().run(output_dir, options=options, **kwargs)

    def test_the_weights_of_messages_scale_their_tokens(self):
        pytest.skip("documents have no weights")

    def test_samples_that_share_a_row_do_not_see_each_other(self, tmp_path):
        """`padding_free`; `neat_packing` cuts documents into blocks of other tokens."""
        arguments = {"max_steps": 3, "per_device_train_batch_size": 4}
        alone, joined = (
            self.run(tmp_path / str(free), options={"padding_free": free}, **arguments)[1]
            for free in (False, True)
        )
        losses = [[entry["loss"] for entry in logs if "loss" in entry] for logs in (alone, joined)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=2e-4)

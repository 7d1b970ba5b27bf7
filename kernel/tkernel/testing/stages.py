"""The contract of stage plugins (`train_stage`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.contract import Contract
from tkernel.testing.stage_runs import BASE, SAID, losses, moved, pulled_positions, recorder, streamed, taken
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message, message_to_dict
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.requests import StageRequest
from tkernel.types.stage import StageResult

IGNORED = -100


class StageContract(Contract):
    """Losses, gradients, resuming and saving of a supervised stage, on a tiny model in fp32.

    A stage for other rows overrides `rows`, `reference_loss` and, if it needs one, `renderer`.
    """

    kind = "stage"
    arguments: ClassVar[Mapping[str, Any]] = {}
    """Training arguments on top of `BASE`."""
    log_file: ClassVar[str | None] = None
    """Where the stage writes one JSON object for each logged step, below its output folder."""
    log_fields: ClassVar[tuple[str, ...]] = (
        *("current_steps", "total_steps", "loss", "lr", "epoch", "percentage"),
        *("elapsed_time", "remaining_time"),
    )
    """Fields of each training step in `log_file`."""
    tolerance: ClassVar[float] = 2e-5
    """Relative difference between losses in fp32 that are computed in another order."""
    loaded: tuple[ModelBundle, ...] = ()

    def bundle(self) -> ModelBundle:
        """A fresh tiny model, the same one each time, its last layer and head frozen."""
        bundle = tiny.make_bundle()
        for name, parameter in bundle.module.named_parameters():
            parameter.requires_grad_("layers.1" not in name and "lm_head" not in name)
        bundle.module.train()
        return bundle

    def other_model(self, role: str) -> ModelBundle:
        """What `request.load_model` gives: a model of the same shape with other weights, frozen."""
        bundle = tiny.make_bundle(seed=1, role=role)
        bundle.module.requires_grad_(False)
        self.loaded = (*self.loaded, bundle)
        return bundle

    def bound_options(self, **values: Any) -> Any:
        """As in `Contract`; each further model that the stage names in `models` is `another`."""
        further = dict.fromkeys(self.further_models(), "another")
        return super().bound_options(**{**further, **self.options, **values})

    def further_models(self) -> Iterable[str]:
        """The options that name models which are loaded beside the trained one."""
        return dict(getattr(self.provider, "models", {})).values()

    def renderer(self, bundle: ModelBundle) -> Any:
        """A ChatML renderer over the tiny tokenizer."""
        return chatml_renderer(bundle.tokenizer)

    def rows(self, said: Sequence[tuple[str, str]], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
        """Canonical rows; `said` are pairs of prompt and reply, `weights` those of the replies."""
        weights = weights or [1.0] * len(said)
        return [
            {
                "messages": [
                    message_to_dict(Message("user", ask)),
                    message_to_dict(Message("assistant", reply, weight=weight)),
                ],
                "tools": "",
                "origin": {"file": "contract.jsonl", "row": position, "line": position + 1},
            }
            for position, ((ask, reply), weight) in enumerate(zip(said, weights, strict=True))
        ]

    def dataset(self, rows: Sequence[Mapping[str, Any]]) -> LoadedDataset:
        """Rows in memory as a stage receives them."""
        import datasets

        report = DatasetReport("contract", read=len(rows), kept=len(rows))
        return LoadedDataset(
            DatasetEntry("contract", "contract.jsonl"), datasets.Dataset.from_list(list(rows)), report
        )

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The loss of the rows, computed one by one and unpadded: the mean cross entropy over all
        supervised tokens of the batch, each with the weight of its message."""
        import torch

        renderer = self.renderer(bundle)
        total, count = torch.zeros(()), 0.0
        for encoded in renderer.encode([Conversation.from_row(row) for row in rows]):
            logits = bundle.module(input_ids=torch.tensor([encoded.input_ids])).logits[0, :-1]
            labels = torch.tensor(encoded.labels[1:])
            losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
            weights = torch.tensor(encoded.weights or [1.0] * len(encoded.labels))[1:]
            total = total + (losses * weights).sum()
            count += float(weights[labels != IGNORED].sum())
        return total / count

    def run(
        self,
        output_dir: Path,
        *,
        train: Sequence[tuple[str, str]] = SAID[:4],
        evaluate: Sequence[tuple[str, str]] = (),
        slots: Mapping[str, Any] | None = None,
        seed: int = 42,
        weights: Sequence[float] = (),
        options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        stream: bool = False,
        bundle: ModelBundle | None = None,
        **arguments: Any,
    ) -> tuple[StageResult, list[dict[str, float]]]:
        """Call the hook: its result, and the logs that a callback was given.

        `options` are fields of the stage's `Options` beside the suite's, `arguments` training arguments;
        `dropout` is that of the attention, and with `stream` the rows to train on come from an iterable
        dataset; `bundle` is one that a check has done something to.
        """
        bundle = bundle or self.bundle()
        for part in bundle.module.modules() if dropout else ():
            if hasattr(part, "attention_dropout"):
                part.attention_dropout = dropout
        output_dir.mkdir(exist_ok=True)
        recording = recorder()
        request = StageRequest(
            bundle,
            self.renderer(bundle),
            train=(streamed(self.dataset(self.rows(train, weights)), stream),) if train else (),
            eval=(self.dataset(self.rows(evaluate)),) if evaluate else (),
            options=self.bound_options(**(options or {})),
            arguments={**BASE, "output_dir": str(output_dir), **self.arguments, **arguments},
            output_dir=output_dir,
            seed=seed,
            load_model=self.other_model,
        )
        request.slots.put("callbacks", recording, by="contract")
        for name, value in (slots or {}).items():
            request.slots.put(name, value, by="contract")
        result: StageResult = self.provider.train_stage(request)
        assert request.slots.unread() == {}
        return result, recording.logs

    def test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch(self, tmp_path: Path) -> None:
        """It equals an independent loop over unpadded rows: padding and masked tokens do not count."""
        rows = self.rows(SAID[:4])
        expected = self.reference_loss(self.bundle(), rows).item()
        _, logs = self.run(tmp_path, max_steps=1, per_device_train_batch_size=4)
        assert losses(logs)[0] == pytest.approx(expected, rel=self.tolerance, abs=1e-4)

    def test_the_weights_of_messages_scale_their_tokens(self, tmp_path: Path) -> None:
        """The loss is the weighted mean over the tokens of the batch."""
        weights = (1.0, 0.25, 3.0, 0.5)
        expected = self.reference_loss(self.bundle(), self.rows(SAID[:4], weights)).item()
        _, logs = self.run(tmp_path, weights=weights, max_steps=1, per_device_train_batch_size=4)
        assert losses(logs)[0] == pytest.approx(expected, rel=self.tolerance, abs=1e-4)

    def test_nothing_to_train_on_is_an_error(self, tmp_path: Path) -> None:
        """Training without a dataset raises a TkError, not whatever fails later."""
        with pytest.raises(TkError):
            self.run(tmp_path, train=(), max_steps=1)

    def learned_positions(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> int | None:
        """How many positions predict a token that is learned; None where that depends on how rows are joined."""
        encoded = self.renderer(bundle).encode([Conversation.from_row(row) for row in rows])
        return sum(int(label != IGNORED) for sample in encoded for label in sample.labels[1:])

    def test_masked_positions_have_no_gradient(self, tmp_path: Path) -> None:
        """The gradient of what the output layer reads is 0 at all positions but those that predict a learned token."""
        expected = self.learned_positions(self.bundle(), self.rows(SAID[:4]))
        if expected is None:
            pytest.skip("rows of this stage share positions")
        found = pulled_positions(bundle := self.bundle())
        self.run(tmp_path, bundle=bundle, max_steps=1, per_device_train_batch_size=4)
        assert sum(found) == expected

    def test_the_side_of_padding_does_not_matter(self, tmp_path: Path) -> None:
        """A tokenizer that pads on the left gives the same losses as one that pads on the right."""
        arguments: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4}
        bundle = self.bundle()
        bundle.tokenizer.padding_side = "left"
        _, right = self.run(tmp_path / "right", **arguments)
        _, left = self.run(tmp_path / "left", bundle=bundle, **arguments)
        assert losses(left) == pytest.approx(losses(right), rel=1e-3, abs=2e-4)

    def test_the_split_into_micro_batches_does_not_matter(self, tmp_path: Path) -> None:
        """1 x 8, 2 x 4 and 8 x 1 samples and accumulation steps, of which only the first have no padding,
        give the same series of losses."""
        series = []
        for size in (1, 2, 8):
            split: dict[str, Any] = {"per_device_train_batch_size": size, "max_steps": 2}
            split["gradient_accumulation_steps"] = 8 // size
            series.append(losses(self.run(tmp_path / str(size), train=SAID, **split)[1]))
        assert len(series[0]) == 2
        for other in series[1:]:
            assert other == pytest.approx(series[0], rel=1e-3, abs=2e-4)

    def test_samples_that_share_a_row_do_not_see_each_other(self, tmp_path: Path) -> None:
        """With `neat_packing`, and with `padding_free`, if the stage takes them: three steps over the same
        samples have the losses of steps over samples that have a row each."""
        keys = taken(self, "neat_packing", "padding_free")
        if not keys:
            pytest.skip("the stage takes neither `neat_packing` nor `padding_free`")
        arguments: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}
        _, alone = self.run(tmp_path / "alone", **arguments)
        for name in keys:
            _, logs = self.run(tmp_path / name, options={name: True}, **arguments)
            assert losses(logs) == pytest.approx(losses(alone), rel=1e-3, abs=2e-4), name

    def test_a_step_follows_the_gradient_of_that_loss(self, tmp_path: Path) -> None:
        """One step of plain SGD through the slot `optimizer` is one step of the independent loop."""
        import torch

        reference = self.bundle()
        self.reference_loss(reference, self.rows(SAID[:4])).backward()
        expected = {
            name: parameter.detach() - 0.1 * parameter.grad
            for name, parameter in reference.module.named_parameters()
            if parameter.requires_grad
        }

        def sgd(model: Any, _: Any) -> Any:
            return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

        arguments: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 0.1}
        result, _ = self.run(tmp_path, slots={"optimizer": sgd}, **arguments)
        for name, parameter in result.bundle.module.named_parameters():
            if name in expected:
                assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-6), name

    def test_the_loss_slot_replaces_the_loss(self, tmp_path: Path) -> None:
        """A loss that an extension contributes is the one that is trained on and logged."""
        arguments: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4}

        def constant(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            return outputs.logits.sum() * 0.0 + 3.0

        result, logs = self.run(tmp_path, slots={"loss": constant}, **arguments)
        assert losses(logs) == pytest.approx([3.0, 3.0])
        assert moved(self.bundle(), result.bundle) == []

    def test_frozen_parameters_do_not_move(self, tmp_path: Path) -> None:
        """Parameters that ask for no gradient are equal bit by bit; the others are trained."""
        fresh = self.bundle()
        result, _ = self.run(tmp_path, max_steps=2, per_device_train_batch_size=4)
        trained = [name for name, p in fresh.module.named_parameters() if p.requires_grad]
        assert moved(fresh, result.bundle) == trained

    def test_resuming_reproduces_the_uninterrupted_run(self, tmp_path: Path) -> None:
        """Four steps, and two steps, a checkpoint and two more give the same losses and the same bits."""
        arguments: dict[str, Any] = {
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "lr_scheduler_type": "linear",
            "save_strategy": "steps",
            "save_steps": 2,
        }
        checkpoint = str(tmp_path / "whole" / "checkpoint-2")
        whole, logs = self.run(tmp_path / "whole", train=SAID, **arguments)
        resumed, rest = self.run(
            tmp_path / "resumed", train=SAID, resume_from_checkpoint=checkpoint, **arguments
        )
        assert len(losses(logs)) == 4
        assert losses(rest)[-2:] == losses(logs)[2:]
        assert moved(whole.bundle, resumed.bundle) == []

    def test_a_resumed_run_is_the_uninterrupted_one_however_samples_are_batched(self, tmp_path: Path) -> None:
        """With dropout, accumulated gradients and a checkpoint between two logs in the middle of an epoch: the
        same bits and the same logs, for samples as they are, by length, in each way to join them that the
        stage has, and from a stream."""
        arguments: dict[str, Any] = {
            "max_steps": 6,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "logging_steps": 2,
            "save_strategy": "steps",
            "save_steps": 3,
        }
        for number, way in enumerate(self._ways_of_batching()):
            folder = tmp_path / str(number)
            whole, logs = self.run(folder, train=SAID, dropout=0.1, **way, **arguments)
            checkpoint = str(folder / "checkpoint-3")
            changes = {**arguments, **way, "resume_from_checkpoint": checkpoint}
            resumed, rest = self.run(tmp_path / f"{number} resumed", train=SAID, dropout=0.1, **changes)
            assert losses(rest)[-2:] == losses(logs)[-2:], way
            assert moved(whole.bundle, resumed.bundle) == [], way

    def _ways_of_batching(self) -> list[dict[str, Any]]:
        """Keyword arguments of `run`."""
        ways: list[dict[str, Any]] = [{}, {"train_sampling_strategy": "group_by_length"}]
        for key in taken(self, "packing", "neat_packing", "padding_free"):
            ways.append({"options": {key: True, "cutoff_len": 64}})
        if taken(self, "buffer_size"):
            ways.append({"options": {"buffer_size": 3, "preprocessing_batch_size": 2}, "stream": True})
        return ways

    def test_the_seed_decides_everything(self, tmp_path: Path) -> None:
        """The same seed gives the same bits, whatever the global generators' state; another one gives
        another order of the rows."""
        import random

        import torch

        arguments: dict[str, Any] = {"max_steps": 4, "per_device_train_batch_size": 2}
        results = []
        for state, seed in ((1, 42), (2, 42), (2, 43)):
            torch.manual_seed(state)
            random.seed(state)
            results.append(self.run(tmp_path / f"{state}{seed}", train=SAID, seed=seed, **arguments))
        assert losses(results[0][1]) == losses(results[1][1])
        assert moved(results[0][0].bundle, results[1][0].bundle) == []
        assert losses(results[0][1]) != losses(results[2][1])

    def test_every_row_is_used_once_an_epoch(self, tmp_path: Path) -> None:
        """With the learning rate 0, the losses of one epoch are those of all rows, each once."""
        rows = self.rows(SAID)
        expected = sorted(self.reference_loss(self.bundle(), [row]).item() for row in rows)
        arguments: dict[str, Any] = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "learning_rate": 0.0,
        }
        _, logs = self.run(tmp_path, train=SAID, **arguments)
        assert sorted(losses(logs)) == pytest.approx(expected, rel=1e-4, abs=2e-4)

    def test_the_evaluation_loss_is_the_mean_over_its_tokens(self, tmp_path: Path) -> None:
        """It equals the independent loop over the evaluation rows, in eval mode."""
        expected = self.reference_loss(self.bundle(), self.rows(SAID[4:])).item()
        arguments: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 4}
        evaluation: dict[str, Any] = {
            "do_eval": True,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "per_device_eval_batch_size": 4,
        }
        _, logs = self.run(tmp_path, evaluate=SAID[4:], **arguments, **evaluation)
        losses = [entry["eval_loss"] for entry in logs if "eval_loss" in entry]
        assert losses
        assert losses[0] == pytest.approx(expected, rel=self.tolerance, abs=1e-4)

    def test_evaluation_changes_nothing(self, tmp_path: Path) -> None:
        """A run that evaluates at every step gives the same bits as one that never does."""
        arguments: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 2}
        evaluation: dict[str, Any] = {"do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
        without, _ = self.run(tmp_path / "without", train=SAID, **arguments)
        with_it, _ = self.run(tmp_path / "with", train=SAID, evaluate=SAID[:2], **arguments, **evaluation)
        assert moved(without.bundle, with_it.bundle) == []

    def test_the_result_is_saved_and_loads(self, tmp_path: Path) -> None:
        """The output folder holds model and tokenizer: loaded, they are the trained ones."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        result, _ = self.run(tmp_path, max_steps=2, per_device_train_batch_size=4)
        assert result.output_dir is not None
        loaded = AutoModelForCausalLM.from_pretrained(result.output_dir)
        tokenizer = AutoTokenizer.from_pretrained(result.output_dir)
        assert moved(result.bundle, result.bundle.replace(module=loaded)) == []
        assert tokenizer("the 12 inn<|im_end|>").input_ids == (
            result.bundle.tokenizer("the 12 inn<|im_end|>").input_ids
        )

    def test_steps_and_metrics_are_those_of_the_run(self, tmp_path: Path) -> None:
        """`steps` is the number of optimiser steps, `train_loss` the mean of their losses."""
        result, logs = self.run(tmp_path, max_steps=3, per_device_train_batch_size=4)
        series = losses(logs)
        assert result.steps == 3
        assert result.metrics["train_loss"] == pytest.approx(sum(series) / 3, abs=1e-3)

    def test_the_log_has_its_fields(self, tmp_path: Path) -> None:
        """Each training step is one line of the log file, with the documented fields and true values."""
        if self.log_file is None:
            pytest.skip("the stage declares no `log_file`")
        result, logs = self.run(tmp_path, max_steps=3, per_device_train_batch_size=4)
        folder = result.output_dir or tmp_path
        lines = [json.loads(line) for line in (folder / self.log_file).read_text().splitlines()]
        steps = [line for line in lines if "loss" in line]
        assert [line["current_steps"] for line in steps] == [1, 2, 3]
        assert {line["total_steps"] for line in steps} == {3}
        assert [line["loss"] for line in steps] == pytest.approx(losses(logs), abs=1e-3)
        assert all(set(self.log_fields) <= line.keys() for line in steps)

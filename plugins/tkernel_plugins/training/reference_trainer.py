"""What the trainers with a reference share: log-probabilities of policy and reference, of whole sequences."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from transformers import TrainingArguments

from tkernel.errors import TkError
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.fused.apply import Fused, fuse
from tkernel_plugins.training.joined_rows import join_rows, part_rows, scorer_of
from tkernel_plugins.training.logps_store import LogpsStore, weights_digest
from tkernel_plugins.training.part_collator import PartCollator
from tkernel_plugins.training.preference_options import ReferenceOptions
from tkernel_plugins.training.reference_logps import Reference, disable_dropout, has_adapter
from tkernel_plugins.training.sequence_rows import joined
from tkernel_plugins.training.stage_trainer import Batch, StageTrainer
from tkernel_plugins.training.token_logps import TokenLogps, TokenScorer

NOT_INPUT = ("origin", "tokens", "keys", "parts", "alone", "completion_mask", "label")
"""What a batch of sequences has beside the model's input, labels and weights."""


class ReferenceTrainer(StageTrainer):
    """Trains a policy whose sequences' log-probabilities are compared with those of a frozen reference.

    Dropout is off: policy and reference differ by their weights alone. A micro-batch is computed as one row
    without padding where `join_rows` finds that the model allows it.

    Args:
        options: those of the stage.
        collator: of the stage's samples; it is given `joined`.
        tokenizer: makes the ids of a trial.
        longest: most tokens of a sequence.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        options: ReferenceOptions,
        collator: PartCollator,
        tokenizer: Any,
        longest: int,
        **kwargs: Any,
    ) -> None:
        disable_dropout(model)
        super().__init__(model, args, data_collator=collator, **kwargs)
        self.options = options
        self.scorer = scorer_of(model, args)
        self.joined = options.join_pairs and join_rows(model, self.scorer, tokenizer, args, longest)
        self.data_collator = replace(collator, joined=self.joined)
        self.fused: Fused = fuse(model)
        self.reference: Reference | None = None

    # -- log-probabilities -------------------------------------------------------------------------

    def policy(self, model: Any, batch: Batch) -> TokenLogps:
        """Of all sequences: joined, those of each sample one after another; padded, as in the batch."""
        with self.accelerator.autocast():
            if self.joined and "parts" in batch:
                return self.scorer.row(model, joined(batch["parts"]))
            return self.scorer.padded(model, model_input(batch))

    def by_sample(self, batch: Batch, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of each sequence, in the order of `policy`, as (sequences of a sample, samples)."""
        sequences = len(self.data_collator.names)
        if self.joined and "parts" in batch:
            return numbers.view(-1, sequences).T
        return numbers.view(sequences, -1)

    def reference_logps(self, batch: Batch) -> torch.Tensor | None:
        """(sequences of a sample, samples); None where there is no reference."""
        if self.reference is None:
            return None
        if "parts" in batch:
            return self.reference.of(batch["keys"], batch["parts"], self.args.device).T
        return self.reference_of_batch(self.reference, batch)

    def reference_of_batch(self, reference: Reference, batch: Batch) -> torch.Tensor:
        """The same of a padded batch without parts, which holds all first sequences, then all second ones."""
        return reference.of_batch(model_input(batch)).view(len(self.data_collator.names), -1)

    # -- the reference -----------------------------------------------------------------------------

    def use_reference(self, request: StageRequest) -> list[str]:
        """Find the reference, and with `precompute_ref_log_probs` ask it now; lines for the screen."""
        options, module = self.options, self.model
        own = has_adapter(module)
        scorer, note = self.scorer, "the model without its adapter"
        if options.ref_model is not None:
            if request.load_model is None:
                raise TkError(
                    "there is nothing to load `ref_model` with", hint="Run the stage with `tkernel.run`."
                )
            module, own = request.load_model("reference").module, False
            module.eval().requires_grad_(False).to(self.args.device)
            scorer, note = self._scorer_of_other(module, request), str(options.ref_model)
        elif not own and not options.precompute_ref_log_probs:
            module, note = copy.deepcopy(module).eval().requires_grad_(False), "a frozen copy of the model"
            scorer = self._scorer_of_other(module, request)
        elif not own:
            note = "the model as it is now"
        store = None
        if options.precompute_ref_log_probs:
            about = (self.joined, self.args.bf16, self.args.fp16, self.args.device.type)
            about += tuple(version(name) for name in ("torch", "transformers", "tkernel"))
            identity = weights_digest(module, frozen_only=own, about=about)
            store = LogpsStore.of(identity, len(self.data_collator.names))

        def score(model: Any, part: Mapping[str, Any]) -> torch.Tensor:
            with self.accelerator.autocast():
                is_row = "predicted_by" in part
                return (scorer.row if is_row else scorer.padded)(model, part).sums()

        self.reference = Reference(module, score, without_adapter=own, store=store)
        if store is None:
            return [f"reference  {note}"]
        words = self._ask(self.reference)
        if module is self.model and not own:
            self.reference.close()
        return [f"reference  {note}; {words}"]

    def _scorer_of_other(self, module: Any, request: StageRequest) -> TokenScorer:
        scorer = scorer_of(module, self.args)
        cutoff = getattr(self.options, "cutoff_len", 2048)
        if self.joined and not join_rows(module, scorer, request.bundle.tokenizer, self.args, cutoff):
            self.joined = False
            self.data_collator = replace(self.data_collator, joined=False)
        return scorer

    def _ask(self, reference: Reference) -> str:
        """Ask the reference about all samples; each process asks about its share."""
        rank, world = self.args.process_index, self.args.world_size
        held_out = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        datasets = [data for data in (self.train_dataset, *held_out.values()) if data is not None]
        places = [(data, row) for data in datasets for row in range(len(data))]

        def samples() -> Iterator[tuple[str, Mapping[str, Any]]]:
            for data, row in places[rank::world]:
                batch = self._prepare_inputs(self.data_collator([data[row]]))
                if "parts" in batch:
                    yield batch["keys"][0], batch["parts"][0]

        training = self.model.training
        self.model.eval()
        computed = reference.fill(samples())
        self.model.train(training)
        self.accelerator.wait_for_everyone()
        if world > 1 and reference.store is not None:
            reference.known |= reference.store.read()
        return f"{computed} of {len(places)} samples computed, the others from the cache"

    def trained_module(self) -> torch.nn.Module:
        """The module as it was, with other weights."""
        self.fused.undo()
        part_rows(self.model)
        self.joined, self.data_collator = False, replace(self.data_collator, joined=False)
        return super().trained_module()

    def note_all(self, names: Sequence[str], totals: Sequence[torch.Tensor], count: Any) -> None:
        """`note` of several sums over `count` samples, brought from the device at once."""
        for name, total in zip(names, torch.stack(list(totals)).tolist(), strict=True):
            self.note(name, total, count)


def model_input(batch: Mapping[str, Any]) -> Batch:
    """The padded batch with labels and weights, without what a model does not take."""
    return {name: value for name, value in batch.items() if name not in NOT_INPUT}

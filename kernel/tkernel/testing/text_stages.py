"""The contract of stages that learn from whole documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tkernel.testing.stage_runs import taken
from tkernel.testing.stages import IGNORED, StageContract
from tkernel.types.bundle import ModelBundle

PACKING = ("packing", "neat_packing")


class TextStageContract(StageContract):
    """What `StageContract` checks, of a stage that learns from documents, one a row.

    `packing` is false where the stage has it: blocks of several documents are no rows.
    """

    def rows(self, said: Sequence[tuple[str, str]], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
        """Each prompt with its reply is a document."""
        origins = [{"file": "contract.jsonl", "row": row, "line": row + 1} for row in range(len(said))]
        return [
            {"text": " ".join(pair), "origin": origin} for pair, origin in zip(said, origins, strict=True)
        ]

    def reference_loss(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Every token but the first is learned; the one that fills batches is not."""
        import torch

        losses = []
        for ids, labels in self.encoded(bundle, rows):
            logits = bundle.module(input_ids=torch.tensor([ids])).logits[0, :-1]
            found = torch.nn.functional.cross_entropy(
                logits, labels[1:], ignore_index=IGNORED, reduction="none"
            )
            losses.append(found[labels[1:] != IGNORED])
        return torch.cat(losses).mean()

    def encoded(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, Any]]:
        """Ids and labels of each document, with the token that ends it."""
        import torch

        tokenizer = bundle.tokenizer
        for row in rows:
            ids = [*tokenizer.encode(row["text"], add_special_tokens=False), tokenizer.eos_token_id]
            yield ids, torch.tensor([IGNORED if token == tokenizer.pad_token_id else token for token in ids])

    def learned_positions(self, bundle: ModelBundle, rows: Sequence[Mapping[str, Any]]) -> int:
        """All but the first of each document."""
        return sum(int(labels[1:].ne(IGNORED).sum()) for _, labels in self.encoded(bundle, rows))

    def run(self, output_dir: Path, *, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """As in `StageContract`, with one document a row where nothing else is asked for."""
        options = dict(options or {})
        declared = getattr(self.provider, "Options", None)
        names = {field.name for field in dataclasses.fields(declared)} if declared else set()
        if "packing" in names and not options.keys() & set(PACKING):
            options["packing"] = False
        return super().run(output_dir, options=options, **kwargs)

    def test_the_weights_of_messages_scale_their_tokens(self, tmp_path: Path) -> None:
        """Not for this stage: documents have no messages."""
        pytest.skip("documents have no weights")

    def test_samples_that_share_a_row_do_not_see_each_other(self, tmp_path: Path) -> None:
        """With `padding_free`, where the stage has it, the losses are those of the documents alone."""
        if not taken(self, "padding_free"):
            pytest.skip("the stage has no `padding_free`")
        arguments = {"max_steps": 3, "per_device_train_batch_size": 4}
        alone, joined = (
            self.run(tmp_path / str(free), options={"padding_free": free}, **arguments)[1]
            for free in (False, True)
        )
        losses = [[entry["loss"] for entry in logs if "loss" in entry] for logs in (alone, joined)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=2e-4)

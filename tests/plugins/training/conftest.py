"""A tiny model, a few encoded samples and a trainer over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_kit import Sample, chatml, pad

from tkernel.testing import tiny
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.requests import StageRequest
from tkernel_plugins.training.options import TrainingOptions


@pytest.fixture
def samples() -> list[Sample]:
    """Sixteen random samples of 5 to 20 tokens; their first 2 to 8 tokens are not learned."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for row in range(16):
        length = int(torch.randint(5, 21, (), generator=generator))
        prompt = min(length - 2, int(torch.randint(2, 9, (), generator=generator)))
        ids = torch.randint(10, 250, (length,), generator=generator).tolist()
        labels = [-100] * prompt + ids[prompt:]
        origin = {"file": "data/train.json", "row": row, "line": 10 + row}
        made.append({"input_ids": ids, "labels": labels, "origin": origin})
    return made


def entry(name: str, rows: Any) -> LoadedDataset:
    """Rows as an entry of `dataset` or `eval_dataset`."""
    return LoadedDataset(DatasetEntry(name, f"{name}.json"), rows, DatasetReport(name))


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., StageRequest]:
    """A stage request over a tiny Llama; keyword arguments are training arguments."""

    def make(
        *,
        bundle: Any = None,
        options: Any = None,
        held_out: Any = None,
        output_dir: Path | None = None,
        **arguments: Any,
    ) -> StageRequest:
        bundle = bundle or tiny.make_bundle()
        bundle.module.requires_grad_(True)
        return StageRequest(
            bundle=bundle,
            renderer=chatml(bundle.tokenizer),
            options=options or TrainingOptions(),
            train=[entry("train", [{}])],
            eval=[entry("held_out", held_out)] if held_out else [],
            arguments=arguments,
            output_dir=output_dir or tmp_path / "out",
            settings={"finetuning_type": "full", "stage": "sft"},
        )

    return make


@pytest.fixture
def make_trainer(samples: list[Sample]) -> Callable[..., Any]:
    """A `SupervisedTrainer` for a request, over `samples` unless other data is given."""
    from tkernel_plugins.training.arguments import build_arguments
    from tkernel_plugins.training.trainer import SupervisedTrainer

    def make(request: StageRequest, **kwargs: Any) -> SupervisedTrainer:
        given = {"train_dataset": samples, "data_collator": pad, **kwargs}
        return SupervisedTrainer(request.bundle.module, build_arguments(request), **given)

    return make

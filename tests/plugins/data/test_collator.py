"""A batch is its samples, padded on the right, and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from tkernel_plugins.data.collator import SupervisedCollator

LONG = {
    "input_ids": [5, 2, 6, 2, 7],
    "labels": [-100, -100, 6, 2, 7],
    "origin": {"file": "a", "row": 0, "line": 1},
}
SHORT = {"input_ids": [2, 2], "labels": [-100, 2], "origin": {"file": "a", "row": 1, "line": 2}}


def test_samples_are_padded_on_the_right_and_masked_by_position() -> None:
    batch = SupervisedCollator(pad_token_id=2, pad_to_multiple_of=None)([LONG, SHORT])
    assert batch["input_ids"].tolist() == [[5, 2, 6, 2, 7], [2, 2, 2, 2, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 6, 2, 7], [-100, 2, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["origin"] == [LONG["origin"], SHORT["origin"]]
    assert {batch[name].dtype for name in ("input_ids", "labels", "attention_mask")} == {torch.long}
    assert "weights" not in batch


def test_the_width_is_the_longest_rounded_up() -> None:
    for length, width in ((1, 8), (8, 8), (9, 16)):
        sample = {"input_ids": [1] * length, "labels": [1] * length}
        assert SupervisedCollator(0)([sample])["input_ids"].shape == (1, width)


def test_a_sample_without_weights_weighs_one_beside_one_with() -> None:
    weighted = SHORT | {"weights": [1.0, 0.5]}
    batch = SupervisedCollator(0, pad_to_multiple_of=None)([weighted, LONG | {"weights": None}])
    assert batch["weights"].tolist() == [[1.0, 0.5, 1.0, 1.0, 1.0], [1.0] * 5]


def test_media_reach_the_processor_as_paths_and_bytes() -> None:
    class Media:
        def expand(self, conversation: Any) -> Any:
            return conversation

        def collate(self, samples: Any) -> dict[str, Any]:
            return {"pixel_values": [sample.images for sample in samples]}

    images = [{"path": "a.png", "bytes": None}, {"path": None, "bytes": b"png"}]
    batch = SupervisedCollator(0, media=Media())([LONG | {"images": images}, SHORT])
    assert batch["pixel_values"] == [("a.png", b"png"), ()]

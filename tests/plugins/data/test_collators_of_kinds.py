"""Batches of pairs, feedback and prompts are their samples, padded, under the names that trainers read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tkernel.errors import DataError
from tkernel_plugins.data.collator import SupervisedCollator
from tkernel_plugins.data.collator_pairs import FeedbackCollator, PreferenceCollator
from tkernel_plugins.data.collator_prompts import PromptCollator

PAIRS: list[dict[str, Any]] = [
    {
        "chosen_input_ids": [1, 2, 3, 4, 5],
        "chosen_labels": [-100, -100, -100, 4, 5],
        "rejected_input_ids": [1, 2, 3, 6],
        "rejected_labels": [-100, -100, -100, 6],
        "origin": {"file": "a", "row": 0, "line": 1},
    },
    {
        "chosen_input_ids": [7, 8, 9],
        "chosen_labels": [-100, -100, 9],
        "rejected_input_ids": [7, 8, 10, 11],
        "rejected_labels": [-100, -100, 10, 11],
        "origin": {"file": "a", "row": 1, "line": 2},
    },
]
FEEDBACK: list[dict[str, Any]] = [
    {
        "input_ids": [1, 2, 3, 4, 5],
        "labels": [-100, -100, -100, 4, 5],
        "kl_input_ids": [1, 2, 3, 6],
        "kl_labels": [-100, -100, -100, 6],
        "label": True,
    },
    {
        "input_ids": [7, 8, 9],
        "labels": [-100, -100, 9],
        "kl_input_ids": [7, 8, 10, 11],
        "kl_labels": [-100, -100, 10, 11],
        "label": False,
    },
]


class Media:
    """Collates to the names of the images."""

    def expand(self, conversation: Any) -> Any:
        return conversation

    def collate(self, samples: Any) -> dict[str, Any]:
        return {"pixel_values": [sample.images for sample in samples]}


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_batch_of_pairs_is_trls() -> None:
    trl = pytest.importorskip("trl.trainer.dpo_trainer")
    halves = [
        {
            "prompt_ids": pair["chosen_input_ids"][:prompt],
            "chosen_ids": pair["chosen_input_ids"][prompt:],
            "rejected_ids": pair["rejected_input_ids"][prompt:],
        }
        for pair, prompt in zip(PAIRS, (3, 2), strict=True)
    ]
    theirs = trl.DataCollatorForPreference(pad_token_id=0, pad_to_multiple_of=8)(halves)
    same(PreferenceCollator(0, for_trl=True)(PAIRS), theirs)


def test_a_batch_of_feedback_is_trls() -> None:
    trl = pytest.importorskip("trl.trainer.kto_trainer")
    given = [
        {
            "prompt_ids": sample["input_ids"][:prompt],
            "completion_ids": sample["input_ids"][prompt:],
            "KL_completion_ids": sample["kl_input_ids"][prompt:],
            "label": sample["label"],
        }
        for sample, prompt in zip(FEEDBACK, (3, 2), strict=True)
    ]
    theirs = trl.DataCollatorForUnpairedPreference(pad_token_id=0)(given)
    same(FeedbackCollator(0, pad_to_multiple_of=None, for_trl=True)(FEEDBACK), theirs)


def test_the_chosen_half_comes_first_and_labels_and_origin_are_there() -> None:
    batch = PreferenceCollator(0, pad_to_multiple_of=None)(PAIRS)
    assert batch["input_ids"][:, 0].tolist() == [1, 7, 1, 7]
    assert batch["labels"].tolist()[3] == [-100, -100, 10, 11, -100]
    assert batch["origin"] == [pair["origin"] for pair in PAIRS]
    assert batch["completion_mask"].sum() == 6


def test_media_go_with_both_sides_of_a_pair_and_once_with_feedback() -> None:
    images = [{"path": "a.png", "bytes": None}]
    pairs = PreferenceCollator(0, media=Media())([PAIRS[0] | {"images": images}, PAIRS[1]])
    assert pairs["pixel_values"] == [("a.png",), (), ("a.png",), ()]
    feedback = FeedbackCollator(0, media=Media())([FEEDBACK[0] | {"images": images}, FEEDBACK[1]])
    assert feedback["pixel_values"] == [("a.png",), ()]


def test_numbers_of_a_sample_come_along_and_weights_are_not_given_to_trl() -> None:
    scored = [pair | {"margin": 0.5, "ref_chosen_logps": -1.0} for pair in PAIRS]
    batch = PreferenceCollator(0, for_trl=True)(scored)
    assert batch["margin"].tolist() == [0.5, 0.5]
    assert batch["ref_chosen_logps"].tolist() == [-1.0, -1.0]
    weighted = [PAIRS[0] | {"rejected_weights": [1.0, 1.0, 1.0, 0.5]}, PAIRS[1]]
    assert PreferenceCollator(0)(weighted)["weights"][2].tolist() == [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(DataError, match="takes none"):
        PreferenceCollator(0, for_trl=True)(weighted)


def test_prompts_end_where_the_reply_begins() -> None:
    given = [
        {"input_ids": [1, 2, 3], "labels": [4], "answer": "four"},
        {"input_ids": [5], "labels": [], "answer": None},
    ]
    batch = PromptCollator(0)(given)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [0, 0, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[4], [-100]]
    assert batch["answer"] == ["four", None]
    assert "labels" not in PromptCollator(0)(given[1:])
    assert PromptCollator(0, pad_to_multiple_of=8)(given)["input_ids"].shape == (2, 8)


def test_padding_is_learned_where_that_is_asked_for() -> None:
    samples = [{"input_ids": [1, 2], "labels": [-100, 2]}]
    assert SupervisedCollator(9, learn_padding=True)(samples)["labels"].tolist() == [[-100, 2] + [9] * 6]
    pairs = PreferenceCollator(9, pad_to_multiple_of=None, learn_padding=True)(PAIRS)
    assert pairs["labels"].tolist()[2] == [-100, -100, -100, 6, 9]

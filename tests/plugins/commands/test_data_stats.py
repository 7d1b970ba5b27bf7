"""`tk data stats` and `tk data prepare`: numbers that a hand and the Trainer come to as well."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seeing_kit import make_folder, of_kind, prepared, prepared_kind, tk
from transformers import TrainingArguments

from tkernel_plugins.commands.data_run import DataRun
from tkernel_plugins.data.collator import SupervisedCollator
from tkernel_plugins.data.look.statistics import Bin, histogram, percentiles
from tkernel_plugins.training.trainer import SupervisedTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("stats"))
    rows = [{"instruction": "q" * n, "output": "a" * (n % 7 + 1)} for n in range(1, 41)]
    (folder / "data" / "growing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def counted(folder: Path, *words: str | int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(tk(folder, "stats", "run.yaml", *words, "--json"))
    return values


GROWING = "dataset=data/growing.jsonl"


def test_samples_tokens_and_percentiles_are_those_of_the_prepared_data(folder: Path) -> None:
    rows = prepared(folder, GROWING, "val_size=0.25").prepared
    found = counted(folder, GROWING, "val_size=0.25")
    for name, split in (("train", rows.train), ("eval", rows.eval)):
        lengths = sorted(map(len, split["input_ids"]))
        expected = found["splits"][name]
        assert expected["samples"] == len(lengths)
        assert expected["tokens"] == sum(lengths)
        assert expected["supervised_tokens"] == sum(label != -100 for row in split["labels"] for label in row)
        for percent, length in expected["percentiles"].items():
            # Nearest rank, by hand.
            assert length == lengths[max(math.ceil(int(percent) / 100 * len(lengths)), 1) - 1]
        assert sum(bin["count"] for bin in expected["histogram"]) == len(lengths)
        for bin in expected["histogram"]:
            assert bin["count"] == sum(bin["start"] <= length <= bin["stop"] for length in lengths)


def test_padding_and_steps_are_those_of_the_trainer(folder: Path) -> None:
    words = (
        GROWING,
        "per_device_train_batch_size=3",
        "gradient_accumulation_steps=4",
        "num_train_epochs=2.5",
    )
    for strategy in ("random", "group_by_length"):
        run = prepared(folder, *words, f"train_sampling_strategy={strategy}")
        found = counted(folder, *words, f"train_sampling_strategy={strategy}")
        drawn = training_batches(run, folder, strategy)
        padded = sum(len(batch) * math.ceil(max(batch) / 8) * 8 for batch in drawn)
        tokens = sum(map(sum, drawn))
        assert found["batches"]["order"] == strategy
        assert found["batches"]["count"] == len(drawn) == math.ceil(40 / 3)
        assert (found["batches"]["tokens"], found["batches"]["padded"]) == (tokens, padded)
        assert found["batches"]["padding_share"] == pytest.approx(1 - tokens / padded)
        per_epoch = math.ceil(14 / 4)
        assert (found["steps"]["per_epoch"], found["steps"]["total"]) == (
            per_epoch,
            math.ceil(2.5 * per_epoch),
        )


def training_batches(run: DataRun, folder: Path, strategy: str) -> list[list[int]]:
    """The lengths of samples in each micro-batch of the first epoch, from the loader that training uses."""
    arguments = TrainingArguments(
        str(folder / "trained"), seed=42, use_cpu=True, report_to="none", remove_unused_columns=False,
        per_device_train_batch_size=3, gradient_accumulation_steps=4, num_train_epochs=1,
        train_sampling_strategy=strategy, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    seen: list[list[int]] = []

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append([len(sample["input_ids"]) for sample in samples])
        return SupervisedCollator(0)(samples)

    trainer = SupervisedTrainer(
        torch.nn.Linear(1, 1), arguments, train_dataset=run.prepared.train, data_collator=collate
    )
    list(trainer.get_train_dataloader())
    return seen


def test_grouping_by_length_and_a_fixed_order_change_the_padding(folder: Path) -> None:
    words = (GROWING, "per_device_train_batch_size=4")
    random = counted(folder, *words)["batches"]
    grouped = counted(folder, *words, "group_by_length=true")["batches"]
    fixed = counted(folder, *words, "disable_shuffling=true")["batches"]
    assert grouped["padded"] < random["padded"]
    # Rows grow by a token each, so that neighbours need least padding; by hand:
    lengths = [len(row) for row in prepared(folder, GROWING).prepared.train["input_ids"]]
    by_hand = sum(4 * math.ceil(max(lengths[n : n + 4]) / 8) * 8 for n in range(0, 40, 4))
    assert (fixed["order"], fixed["padded"]) == ("sequential", by_hand)


def test_several_processes_share_the_batches(folder: Path) -> None:
    words = (GROWING, "per_device_train_batch_size=3", "gradient_accumulation_steps=2")
    assert counted(folder, *words, "--world-size", 4)["steps"] == {
        "world_size": 4,
        "accumulation": 2,
        "per_epoch": 2,  # 14 batches, 4 for each process, 2 to a step
        "epochs": 3.0,
        "total": 6,
    }
    limited = counted(folder, *words, "max_steps=5")["steps"]
    assert (limited["total"], limited["per_epoch"]) == (5, 7)
    dropped = counted(folder, *words, "dataloader_drop_last=true")
    assert (dropped["batches"]["count"], dropped["steps"]["per_epoch"]) == (13, 7)


def test_packing_efficiency_is_the_share_of_rows_that_is_filled(folder: Path) -> None:
    run = prepared(folder, GROWING, "packing=true", "cutoff_len=200")
    found = counted(folder, GROWING, "packing=true", "cutoff_len=200")
    rows = list(map(len, run.prepared.train["input_ids"]))
    assert found["packing"]["rows"] == len(rows)
    assert found["packing"]["samples_per_row"] == pytest.approx(40 / len(rows))
    assert found["packing"]["efficiency"] == pytest.approx(sum(rows) / (200 * len(rows)))
    assert found["splits"]["train"]["samples"] == 40
    free = counted(folder, GROWING, "padding_free=true")
    assert free["batches"]["padding_share"] == 0


def test_pairs_are_padded_together_and_replies_of_other_rows_apart(folder: Path) -> None:
    rows = prepared_kind(folder, "preference").prepared.train
    found = counted(folder, *of_kind("preference"))
    sides = [len(row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected")]
    assert found["splits"]["train"]["tokens"] == found["batches"]["tokens"] == sum(sides)
    assert found["batches"]["padded"] == len(sides) * math.ceil(max(sides) / 8) * 8
    assert found["splits"]["train"]["percentiles"]["100"] == max(sides)
    rows = prepared_kind(folder, "feedback").prepared.train
    found = counted(folder, *of_kind("feedback"))
    own, other = ([len(row[f"{name}input_ids"]) for row in rows] for name in ("", "kl_"))
    assert found["splits"]["train"]["tokens"] == sum(own)
    assert found["batches"]["padded"] == sum(3 * math.ceil(max(part) / 8) * 8 for part in (own, other))


def test_a_fitting_cutoff_is_told_also_where_samples_are_cut(folder: Path) -> None:
    whole = sorted(map(len, prepared(folder, GROWING).prepared.train["input_ids"]))
    expected = {
        str(percent): math.ceil(whole[math.ceil(percent / 100 * 40) - 1] / 8) * 8
        for percent in (90, 95, 99, 100)
    }
    assert counted(folder, GROWING)["fitting_cutoff_len"] == expected
    cut = counted(folder, GROWING, "cutoff_len=30")
    assert cut["fitting_cutoff_len"] == expected
    (dataset,) = cut["datasets"]
    assert dataset["truncated"] == sum(length > 30 for length in whole)
    assert dataset["truncated_share"] == dataset["truncated"] / dataset["samples"]
    assert dataset["tokens_lost"] == sum(whole) - cut["splits"]["train"]["tokens"]


def test_lengths_are_told_for_each_dataset(folder: Path) -> None:
    found = counted(folder, "dataset=lines,data/growing.jsonl")["splits"]["train"]
    both = found["percentiles_by_dataset"]
    assert set(both) == {"lines", "data/growing.jsonl"}
    assert both["lines"] == counted(folder, "dataset=lines")["splits"]["train"]["percentiles"]
    assert both["data/growing.jsonl"] == counted(folder, GROWING)["splits"]["train"]["percentiles"]
    text = tk(folder, "stats", "run.yaml", "dataset=lines,data/growing.jsonl")
    assert "growing.jsonl (train): 40 rows read, 40 samples" in text


def test_each_dataset_of_evaluation_has_numbers_of_its_own_also_one_that_is_trained_on(folder: Path) -> None:
    words = ("eval_dataset=chats,lines", "eval_on_each_dataset=true")
    splits = counted(folder, *words)["splits"]
    assert list(splits) == ["train", "eval chats", "eval lines"]
    assert splits["eval lines"] == splits["train"]
    shown = json.loads(tk(folder, "view", "run.yaml", *words, "--split", "eval", "--index", 1, "--json"))
    assert shown["size"] == 9
    assert shown["samples"][0]["strips"][0]["origin"]["file"].endswith("lines.jsonl")


def test_the_histogram_is_drawn_on_screen_and_as_a_picture(folder: Path) -> None:
    png = folder / "lengths.png"
    text = tk(folder, "stats", "run.yaml", GROWING, "--png", png)
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    assert png.stat().st_size > 5000
    assert "█" in text
    assert "train: 40 samples" in text
    assert "cannot write" in tk(folder, "stats", "run.yaml", "--png", folder / "no" / "x.png", code=1)


def test_a_stream_is_looked_at_measured_and_checked_as_it_will_be_read(folder: Path) -> None:
    words = (GROWING, "streaming=true", "max_steps=3", "buffer_size=8")
    run = prepared(folder, *words)
    with contextlib.chdir(folder):
        ids = [sample["input_ids"] for sample in run.prepared.train]
    found = counted(folder, *words)
    assert found["batches"]["order"] == "stream"
    assert found["splits"]["train"]["tokens"] == sum(map(len, ids))
    assert found["steps"]["total"] == 3
    shown = json.loads(tk(folder, "view", "run.yaml", *words, "--index", 7, "--count", 3, "--json"))
    assert shown["size"] is None
    assert [sample["strips"][0]["input_ids"] for sample in shown["samples"]] == ids[7:10]
    assert shown["samples"][0]["strips"][0]["spans"][1]["part"] == "reply"
    cut = json.loads(tk(folder, "view", "run.yaml", *words, "cutoff_len=30", "--find", "truncated", "--json"))
    assert cut["found"] == sum(len(row) > 30 for row in ids)
    assert "there are no more" in tk(folder, "view", "run.yaml", *words, "--index", 99, code=2)
    text = tk(folder, "prepare", "run.yaml", *words)
    assert "read       40 rows" in text


def test_percentiles_and_histograms_of_few_samples() -> None:
    assert percentiles(np.array([7])) == dict.fromkeys((1, 5, 25, 50, 75, 90, 95, 99, 100), 7)
    assert percentiles(np.array([], "int64")) == {}
    assert histogram(np.array([], "int64")) == ()
    assert histogram(np.array([3, 3, 5])) == (Bin(3, 3, 2), Bin(4, 4, 0), Bin(5, 5, 1))
    wide = histogram(np.array([1, 1000]))
    assert (wide[0], wide[-1].count, sum(bin.count for bin in wide)) == (Bin(1, 50, 1), 1, 2)


def test_preparing_saves_the_report_and_claims_nothing(folder: Path) -> None:
    text = tk(folder, "prepare", "run.yaml", GROWING, "cutoff_len=30")
    assert [line.split()[0] for line in text.splitlines()] == ["read", "kept", "truncated", "tokens"]
    report = json.loads((folder / "out" / "data_report.json").read_text())
    run = prepared(folder, GROWING, "cutoff_len=30")
    assert report["datasets"] == run.prepared.report.to_json()["datasets"]
    assert [file.name for file in (folder / "out").iterdir()] == ["data_report.json"]
    tk(folder, "prepare", "run.yaml", "--report", folder / "deep" / "report.json")
    assert json.loads((folder / "deep" / "report.json").read_text())["splits"] == {"training": 8}
    assert json.loads(tk(folder, "prepare", "run.yaml", "--json"))["splits"] == {"training": 8}
    assert "cannot write" in tk(folder, "prepare", "run.yaml", "--report", folder / "run.yaml" / "x", code=1)


def test_what_is_missing_in_the_configuration_is_said_with_its_line(folder: Path) -> None:
    (folder / "none.yaml").write_text("model_name_or_path: model\n")
    for command in ("stats", "prepare", "view"):
        assert "dataset is not set" in tk(folder, command, "none.yaml", code=2)
    (folder / "zero.yaml").write_text("model_name_or_path: model\ndataset: lines\ncutoff_len: 0\n")
    assert "zero.yaml:3: cutoff_len" in tk(folder, "stats", "zero.yaml", code=2)

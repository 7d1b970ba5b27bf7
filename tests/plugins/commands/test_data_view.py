"""`tk data view`: what is shown is what is trained on, for every kind of rows, and nothing in it is acted upon."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from seeing_kit import KINDS, LINES, Page, make_folder, of_kind, prepared, prepared_kind, process, tk

from tkernel.testing import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("seeing"))


def viewed(folder: Path, *words: str | int) -> list[dict[str, Any]]:
    """The samples that `tk data view --json` prints."""
    samples: list[dict[str, Any]] = json.loads(tk(folder, "view", "run.yaml", *words, "--json"))["samples"]
    return samples


def check_spans(strip: dict[str, Any]) -> None:
    """Spans cover all tokens, in order and without gaps."""
    stops = [span["stop"] for span in strip["spans"]]
    assert [span["start"] for span in strip["spans"]] == [0, *stops][: len(stops)]
    assert (stops[-1] if stops else 0) == len(strip["input_ids"])


def test_tokens_are_those_of_preparation_and_turns_those_of_the_renderer(folder: Path) -> None:
    run = prepared(folder, "dataset=lines,chats")
    samples = viewed(folder, "dataset=lines,chats", "--count", 99)
    assert [sample["index"] for sample in samples] == list(range(9))
    for sample, row in zip(samples, run.prepared.train, strict=True):
        (strip,) = sample["strips"]
        assert strip["input_ids"] == row["input_ids"]
        assert strip["labels"] == row["labels"]
        assert strip["weights"] == row["weights"]
        assert strip["origin"] == row["origin"]
        assert len(strip["pieces"]) == len(strip["input_ids"])
        check_spans(strip)
    chat = samples[8]["strips"][0]
    assert chat["dataset"] == "chats"
    parts = [(span["turn"], span["part"]) for span in chat["spans"]]
    assert parts == [(1, "prompt"), (1, "reply"), (2, "prompt"), (2, "reply")]
    assert set(chat["weights"]) == {1.0, 0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rows_is_shown_with_all_its_columns(folder: Path, kind: str) -> None:
    cutoff = "cutoff_len=16" if kind == "text" else "cutoff_len=2048"
    run = prepared_kind(folder, kind, cutoff)
    samples = viewed(folder, *of_kind(kind), cutoff, "--count", 99)
    assert len(samples) == len(run.prepared.train)
    for sample, row in zip(samples, run.prepared.train, strict=True):
        strips = {strip["name"]: strip for strip in sample["strips"]}
        for strip in sample["strips"]:
            check_spans(strip)
        if kind == "preference":
            for side in ("chosen", "rejected"):
                assert strips[side]["input_ids"] == row[f"{side}_input_ids"]
                assert strips[side]["labels"] == row[f"{side}_labels"]
                assert [span["part"] for span in strips[side]["spans"]] == ["prompt", "reply"]
        elif kind == "feedback":
            assert strips["input"]["input_ids"] == row["input_ids"]
            assert (strips["kl"]["input_ids"], strips["kl"]["labels"]) == (
                row["kl_input_ids"],
                row["kl_labels"],
            )
            assert sample["label"] == row["label"]
        elif kind == "prompt":
            assert strips["input"]["input_ids"] == row["input_ids"]
            assert strips["reply"]["input_ids"] == row["labels"]
        else:
            assert [i for strip in sample["strips"] for i in strip["input_ids"]] == row["input_ids"]
            assert {span["part"] for strip in sample["strips"] for span in strip["spans"]} == {"text"}


def test_a_packed_row_shows_where_each_of_its_samples_begins_and_where_it_came_from(folder: Path) -> None:
    run = prepared(folder, "packing=true", "cutoff_len=100")
    samples = viewed(folder, "packing=true", "cutoff_len=100", "--count", 99)
    for sample, row in zip(samples, run.prepared.train, strict=True):
        assert sample["packed"] is True
        assert [len(strip["input_ids"]) for strip in sample["strips"]] == row["lengths"]
        assert [strip["origin"] for strip in sample["strips"]] == row["origins"]
        assert [i for strip in sample["strips"] for i in strip["input_ids"]] == row["input_ids"]
        starts = [strip["start"] for strip in sample["strips"]]
        assert starts == [sum(row["lengths"][:n]) for n in range(len(starts))]
    text = tk(folder, "view", "run.yaml", "packing=true", "cutoff_len=100")
    assert "2 samples packed" in text
    assert "-- 2 of 2 in the row, tokens 40 to" in text or "-- 2 of 2 in the row, tokens 41 to" in text


@pytest.mark.parametrize("policy", ["proportional", "keep_start", "keep_end"])
def test_truncated_samples_are_found_and_what_was_cut_is_the_rest_of_the_row(
    folder: Path, policy: str
) -> None:
    whole = {strip["origin"]["row"]: strip for s in viewed(folder, "--count", 8) for strip in s["strips"]}
    words = ("cutoff_len=34", f"truncation={policy}", "--find", "truncated", "--count", 8)
    samples = viewed(folder, *words)
    assert len(samples) == 8
    for sample in samples:
        (strip,) = sample["strips"]
        ids = list(strip["input_ids"])
        for cut in reversed(strip["cut"]):
            ids[cut["before"] : cut["before"]] = cut["input_ids"]
        assert ids == whole[strip["origin"]["row"]]["input_ids"]
        assert sample["tokens_lost"] == sum(len(cut["input_ids"]) for cut in strip["cut"]) > 0


def test_cut_sides_of_pairs_and_whole_samples_are_told_apart(folder: Path) -> None:
    found = json.loads(
        tk(
            folder,
            "view",
            "run.yaml",
            *of_kind("preference"),
            "cutoff_len=26",
            "--find",
            "truncated",
            "--json",
        )
    )
    assert found["found"] == len(found["samples"]) > 0
    for sample in found["samples"]:
        assert sample["tokens_lost"] > 0
    none = json.loads(tk(folder, "view", "run.yaml", "--find", "truncated", "--json"))
    assert (none["found"], none["samples"]) == (0, [])
    assert "0 of 8 samples lost tokens" in tk(folder, "view", "run.yaml", "--find", "truncated")


def test_sides_whose_prompt_ends_in_view_of_the_reply_keep_their_turns(folder: Path) -> None:
    thought = "<think>\nHm.\n</think>\n\nYes."
    rows = [
        {"instruction": "Well?", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in ((thought, "No."), ("Yes.", thought))
    ]
    (folder / "data" / "thoughts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = json.loads((folder / "data" / "dataset_info.json").read_text())
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info["thoughts"] = {"file_name": "thoughts.jsonl", "ranking": True, "columns": columns}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(info))
    for thinking in ("true", "false"):
        words = (*of_kind("preference"), "dataset=thoughts", "template=qwen3", f"enable_thinking={thinking}")
        for sample in viewed(folder, *words, "--count", 2):
            for strip in sample["strips"]:
                check_spans(strip)
                assert [span["part"] for span in strip["spans"]] == ["prompt", "reply"]
                assert set(strip["labels"][: strip["spans"][0]["stop"]]) == {-100}


def test_pieces_of_a_split_conversation_lose_nothing(folder: Path) -> None:
    words = ("cutoff_len=25", "truncation=split")
    assert json.loads(tk(folder, "view", "run.yaml", *words, "--find", "truncated", "--json"))["found"] == 0
    (sample,) = viewed(folder, *words, "--index", 1)
    check_spans(sample["strips"][0])


def test_replies_without_their_terminator_are_found(folder: Path) -> None:
    cut = ("cutoff_len=32", "truncation=keep_start", "--find", "no-eos")
    found = json.loads(tk(folder, "view", "run.yaml", *cut, "--json"))
    assert found["found"] == 8
    assert {reply["reason"] for reply in found["replies"]} == {"truncation cut it off"}
    assert "0 of 8 samples have a reply" in tk(folder, "view", "run.yaml", "--find", "no-eos")
    blocks = (*of_kind("text"), "cutoff_len=16", "--find", "no-eos")
    assert json.loads(tk(folder, "view", "run.yaml", *blocks, "--json"))["found"] == 0
    whole = json.loads(tk(folder, "view", "run.yaml", *blocks, "packing=false", "--json"))
    assert {reply["part"] for reply in whole["replies"]} == {"text"}
    short = (*of_kind("feedback"), "cutoff_len=26", "--find", "no-eos", "--json")
    replies = json.loads(tk(folder, "view", "run.yaml", *short))["replies"]
    assert {reply["reason"] for reply in replies} == {"truncation cut it off"}
    # What is not learned needs no end, and a template may teach the end where the next prompt begins.
    for template in ("chatml", "glm4", "mistral"):
        none = ("dataset=chats", f"template={template}", "--find", "no-eos", "--json")
        assert json.loads(tk(folder, "view", "run.yaml", *none))["found"] == 0


def test_rows_that_are_not_used_are_listed_with_position_and_reason(folder: Path) -> None:
    rows = [{"instruction": "Q?", "output": "A"}, {"instruction": "Q?", "output": ""}]
    bad = folder / "data" / "bad.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows * 15) + "broken\n")
    found = json.loads(
        tk(folder, "view", "run.yaml", "dataset=data/bad.jsonl", "--find", "rejected", "--json")
    )
    assert found["found"] == 16 == sum(found["reasons"].values())
    assert [row["line"] for row in found["rejected"]] == [*range(2, 31, 2), 31]
    assert all(row["file"].endswith("bad.jsonl") and row["reason"] for row in found["rejected"])
    text = tk(folder, "view", "run.yaml", "dataset=data/bad.jsonl", "--find", "rejected")
    assert "16 of 31 rows are not used" in text
    assert "bad.jsonl:31: not valid JSON" in text
    message = tk(
        folder,
        "view",
        "run.yaml",
        "dataset=data/bad.jsonl",
        "on_bad_row=drop",
        "--row",
        "bad.jsonl:31",
        code=2,
    )
    assert "bad.jsonl:31 is not used: not valid JSON" in message


def test_a_row_is_found_by_file_and_line(folder: Path) -> None:
    (sample,) = viewed(folder, "val_size=2", "--split", "eval", "--index", 1)
    line = sample["strips"][0]["origin"]["line"]
    (same,) = viewed(folder, "val_size=2", "--split", "eval", "--row", f"lines.jsonl:{line}")
    assert same == sample
    elsewhere = tk(folder, "view", "run.yaml", "val_size=2", "--row", f"lines.jsonl:{line}", code=2)
    assert "not among the samples for train" in elsewhere
    assert "no dataset of this run has a row" in tk(
        folder, "view", "run.yaml", "--row", "lines.jsonl:9", code=2
    )


def test_what_is_asked_for_and_is_not_there_is_said(folder: Path) -> None:
    assert "there are 8 samples, 0 to 7" in tk(folder, "view", "run.yaml", "--index", 8, code=2)
    assert "no samples for eval" in tk(folder, "view", "run.yaml", "--split", "eval", code=2)
    assert "truncated, rejected, no-eos" in tk(folder, "view", "run.yaml", "--find", "eos", code=2)
    assert "FILE:LINE" in tk(folder, "view", "run.yaml", "--row", "7", code=2)
    assert "one of them" in tk(folder, "view", "run.yaml", "--row", "a:7", "--find", "rejected", code=2)
    assert "no configuration is given" in tk(folder, "view", code=2)
    wrong = tk(folder, "view", "run.yaml", "cutoff_lne=3", code=2)
    assert "Did you mean 'cutoff_len'?" in wrong
    (folder / "wrong.yaml").write_text("model_name_or_path: model\ndataset: lines\ncutoff_len: none\n")
    assert re.search(r"wrong.yaml:3: .*cutoff_len", tk(folder, "view", "wrong.yaml", code=2))


def test_long_samples_come_in_pages(folder: Path) -> None:
    words = ("view", "run.yaml", "val_size=2", "--split", "eval", "--max-tokens", 15, "--page", 2)
    text = tk(folder, *words)
    again = "tk data view run.yaml val_size=2 --split eval --index 0 --max-tokens 15 --page 3"
    assert f"page 2 of 3, tokens 15 to 29 of 40; the next: {again}" in text or "of 41" in text
    assert "tokens 15 to 29, not learned" in text
    assert "page" not in tk(folder, "view", "run.yaml", "--max-tokens", 0)
    long = folder / "data" / "long.jsonl"
    long.write_text(json.dumps({"instruction": "x" * 5000, "output": "y" * 300}))
    text = tk(folder, "view", "run.yaml", "dataset=data/long.jsonl", "cutoff_len=9000")
    assert "page 1 of 3, tokens 0 to 1,999" in text
    # Equal tokens in a row are one cell, so that the page is short.
    assert "x×1,9" in text
    assert len(text.splitlines()) < 20


def test_nothing_in_the_data_reaches_a_terminal_as_a_command(folder: Path) -> None:
    text = tk(folder, "view", "run.yaml", "dataset=chats")
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\u202e" not in text
    assert "␛" in text
    assert "<0xE4>" in text
    listed = tk(folder, "view", "run.yaml", "dataset=chats", "cutoff_len=60", "--find", "truncated")
    assert all(character.isprintable() or character == "\n" for character in listed)


def test_the_page_holds_every_token_and_nothing_that_is_fetched_or_run(folder: Path) -> None:
    file = folder / "page.html"
    tk(folder, "view", "run.yaml", "dataset=chats", "--html", file)
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.seen & {"script", "link", "img", "iframe", "b"}
    assert not page.attributes & {"src", "href", "onclick"}
    assert "http" not in text.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    (strip,) = viewed(folder, "dataset=chats")[0]["strips"]
    titles = [
        f"id {token} · label {label}"
        for token, label in zip(strip["input_ids"], strip["labels"], strict=True)
    ]
    assert [title.split(" · position")[0].split(" · weight")[0] for title, _ in page.tokens] == titles
    assert "".join(text.rstrip("\n") for _, text in page.tokens).endswith("<b>&amp;</b><|im_end|>⏎")


def test_pictures_are_placeholders_of_one_cell_and_need_no_weights_either(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    tiny.save_model(tmp_path / "model", "llava")
    (tmp_path / "model" / "model.safetensors").unlink()
    image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    asked = [{"role": "user", "content": "<image><image>What?"}, {"role": "assistant", "content": "Red."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": asked, "images": ["a.png"] * 2}))
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "rows.jsonl", "formatting": "openai", "columns": columns}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"seen": entry}))
    (tmp_path / "run.yaml").write_text(
        "model_name_or_path: model\ndataset: seen\ndataset_dir: .\ntemplate: chatml\n"
    )
    assert "<image>×8" in tk(tmp_path, "view", "run.yaml")
    (strip,) = viewed(tmp_path)[0]["strips"]
    assert strip["pieces"].count("<image>") == 8
    assert [span["part"] for span in strip["spans"]] == ["prompt", "reply"]


def test_html_of_a_search_that_finds_nothing_is_a_page_too(folder: Path) -> None:
    file = folder / "none.html"
    tk(folder, "view", "run.yaml", "--find", "truncated", "--html", file)
    Page(file.read_text(encoding="utf-8"))
    assert "0 of 8 samples" in file.read_text(encoding="utf-8")
    missing = folder / "no" / "page.html"
    assert f"cannot write {missing}" in tk(folder, "view", "run.yaml", "--html", missing, code=1)


def test_json_says_what_it_is_of(folder: Path) -> None:
    values = json.loads(tk(folder, "view", "run.yaml", "template=chatml", "--json"))
    assert len(values.pop("samples")) == 1
    assert values == {
        "format": 1,
        "file": "run.yaml",
        "rows": "supervised",
        "template": "chatml",
        "split": "train",
        "size": len(LINES),
        "order": "preparation",
    }


def test_a_process_writes_plain_text_into_a_pipe_of_any_encoding(folder: Path) -> None:
    done = process(folder, "view", "run.yaml", "dataset=chats", COLUMNS="60", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sample 0 of 1 for training: 91 tokens\ndata/chats.jsonl:1")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    bad = process(folder, "view", "run.yaml", "dataset=nowhere")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "command line" in bad.stderr

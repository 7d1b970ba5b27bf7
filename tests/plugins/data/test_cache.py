"""Prepared data are read again when nothing that they depend on has changed, and never otherwise."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_kit import IDENTITIES, digest, loaded, prepared, request_of, rows, turns_of
from data_kit import write_json, write_jsonl

from tkernel.errors import LockMismatch, TkError
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.data import cache_parts
from tkernel_plugins.data.cache import cache_folder, entries
from tkernel_plugins.data.cache_entry import MANIFEST
from tkernel_plugins.data.cache_key import Key, missed
from tkernel_plugins.data.cache_samples import sample_key
from tkernel_plugins.data.options import PrepareOptions, RowOptions
from tkernel_plugins.data.prepare import prepare


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", rows(20))


def outcome(*train: Any, **given: Any) -> str:
    return prepared(*train, **given).report.cache or ""


def test_the_second_run_reads_what_the_first_one_wrote(file: Path) -> None:
    first = prepared(loaded(file), cutoff_len=12, val_size=3)
    second = prepared(loaded(file), cutoff_len=12, val_size=3)
    assert first.report.cache == "miss: nothing is cached yet"
    assert second.report.cache is not None
    assert second.report.cache.startswith("hit: ")
    for name in ("train", "eval"):
        before, now = getattr(first, name), getattr(second, name)
        assert before[:] == now[:]
        assert before.features == now.features
        assert now.cache_files[0]["filename"].startswith(str(cache_folder()))
    said, again = first.report.to_json(), second.report.to_json()
    assert {**said, "cache": None} == {**again, "cache": None}


def test_rows_are_parsed_once(file: Path) -> None:
    first = loaded(file, entry={"num_samples": 30}, seed=5)
    second = loaded(file, entry={"num_samples": 30}, seed=5)
    assert first.rows[:] == second.rows[:]
    assert first.report == second.report
    assert len(entries("rows")) == 1
    loaded(file, entry={"num_samples": 30}, seed=6)
    assert len(entries("rows")) == 2


def test_the_line_says_hit_or_miss_and_why(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        prepared(loaded(file))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cache: ")]
    assert lines[0] == "cache: miss: nothing is cached yet"
    assert lines[1].startswith("cache: hit: ")


def other_turns(conversation: Conversation) -> list[Turn]:
    turns = turns_of(conversation)
    return [Turn((Segment("> "), *turn.prompt), turn.reply, turn.trained, turn.weight) for turn in turns]


def with_token() -> Any:
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_tokens(["Question"])
    return tokenizer


def with_template() -> Any:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer


CHANGES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "cutoff_len": (lambda: {"cutoff_len": 12}, "cutoff_len changed (2048 -> 12)"),
    "mask_history": (lambda: {"mask_history": True}, "mask_history changed (False -> True)"),
    "train_on_prompt": (lambda: {"train_on_prompt": True}, "train_on_prompt changed (False -> True)"),
    "packing": (lambda: {"packing": True}, "packing changed (None -> True)"),
    "truncation": (lambda: {"truncation": "drop"}, "truncation changed (proportional -> drop)"),
    "val_size": (lambda: {"val_size": 2}, "val_size changed (0.0 -> 2), the seed is new"),
    "batch size": (lambda: {"preprocessing_batch_size": 7}, "preprocessing_batch_size changed (1000 -> 7)"),
    "bad rows": (lambda: {"settings": {"on_bad_row": "drop"}}, "on_bad_row changed (error -> drop)"),
    "plugin version": (
        lambda: {"identities": {**IDENTITIES, "template": "tests==2:minimal sha256:0"}},
        "the template changed",
    ),
    "plugin source": (
        lambda: {"identities": {**IDENTITIES, "template": "tests==1:minimal sha256:1"}},
        "the template changed",
    ),
    "template options": (
        lambda: {"identities": {**IDENTITIES, "template options": "Options(1)"}},
        "template options changed (Options() -> Options(1))",
    ),
    "what the template writes": (lambda: {"turns": other_turns}, "the template changed"),
    "vocabulary": (lambda: {"tokenizer": with_token()}, "the tokenizer changed"),
    "chat template": (lambda: {"tokenizer": with_template()}, "the tokenizer changed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_anything_is_a_miss_that_names_it(change: str, file: Path) -> None:
    prepared(loaded(file))
    given, reason = CHANGES[change]
    assert outcome(loaded(file), **given()) == f"miss: {reason}"
    assert outcome(loaded(file), **given()).startswith("hit: ")
    assert outcome(loaded(file)).startswith("hit: ")


def test_a_change_of_the_data_is_a_miss_that_names_the_dataset(file: Path, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", rows(5))
    prepared(loaded(file), loaded(other))
    assert outcome(loaded(other), loaded(file)) == "miss: datasets changed (rows, other -> other, rows)"
    assert outcome(loaded(file), held_out=[loaded(other)]).startswith("miss: ")
    write_jsonl(file, [*rows(19), {"instruction": "Question 19?", "output": "Another answer"}])
    again = prepared(loaded(file), loaded(other))
    assert again.report.cache == "miss: the dataset rows changed"
    assert again.train is not None
    assert len(again.train) == 25


def test_a_file_that_was_moved_is_another(file: Path, tmp_path: Path) -> None:
    prepared(loaded(file))
    moved = file.rename(tmp_path / "moved.jsonl")
    result = prepared(loaded(moved, name="rows"))
    assert result.report.cache == "miss: the dataset rows changed"
    assert result.train is not None
    assert result.train[0]["origin"]["file"] == str(moved)


def test_the_same_rows_with_other_rejections_are_told_as_they_are_now(file: Path) -> None:
    dropping = RowOptions(on_bad_row="drop")
    prepared(loaded(file, options=dropping))
    with file.open("a") as stream:
        stream.write('{"instruction": "no reply"}\n')
    result = prepared(loaded(file, options=dropping))
    assert result.report.cache is not None
    assert result.report.cache.startswith("hit: ")
    counts = result.report.to_json()["datasets"][0]
    assert (counts["read"], counts["kept"], sum(counts["rejected"].values())) == (21, 20, 1)


def test_processes_do_not_matter_and_the_seed_only_where_something_is_drawn(file: Path) -> None:
    prepared(loaded(file), preprocessing_batch_size=5)
    for given in ({"preprocessing_num_workers": 3}, {"seed": 1}):
        assert outcome(loaded(file), preprocessing_batch_size=5, **given).startswith("hit: "), given
    prepared(loaded(file), val_size=3)
    assert outcome(loaded(file), val_size=3, seed=1) == "miss: seed changed (42 -> 1)"


def test_every_option_of_preparation_is_in_the_key_or_known_not_to_matter(file: Path) -> None:
    key = sample_key(request_of(loaded(file)), "supervised", PrepareOptions())
    assert isinstance(key, Key)
    left_out = set(PrepareOptions.__dataclass_fields__) - set(key.components)
    assert left_out == {"overwrite_cache", "preprocessing_num_workers", "tokenized_path"}
    assert {f"version of {name}" for name in (*cache_parts.LIBRARIES, "python")} <= set(key.components)
    assert {"code of tkernel", "code of tkernel_plugins"} <= set(key.components)


def test_rows_that_were_changed_after_loading_are_other_rows(file: Path) -> None:
    plain = loaded(file)
    prepared(plain)
    fewer = type(plain)(plain.entry, plain.rows.select(range(10)), plain.report)
    assert outcome(fewer) == "miss: the dataset rows changed"
    assert outcome(fewer).startswith("hit: ")


def test_overwrite_cache_encodes_anew(file: Path) -> None:
    prepared(loaded(file))
    before = entries("samples")[0].manifest["created"]
    assert outcome(loaded(file), overwrite_cache=True) == "miss: overwrite_cache is set"
    (entry,) = entries("samples")
    assert entry.manifest["created"] > before
    assert outcome(loaded(file)).startswith("hit: ")


def test_what_an_object_in_memory_makes_is_not_cached(file: Path) -> None:
    assert outcome(loaded(file), identities={}) == "not used: the template is an object in memory"
    assert entries("samples") == []


def test_rows_with_media_are_read_anew(tmp_path: Path) -> None:
    data = write_json(
        tmp_path / "media.json", [{"instruction": "<image>q", "output": "a", "images": ["a.png"]}]
    )
    columns = {"prompt": "instruction", "response": "output", "images": "images"}
    first = loaded(data, entry={"columns": columns})
    assert first.rows["images"][:] == [["a.png"]]
    (tmp_path / "a.png").write_bytes(b"")
    second = loaded(data, entry={"columns": columns})
    assert second.rows["images"][:] == [[str(tmp_path / "a.png")]]
    assert entries("rows") == []


def test_a_template_that_gives_different_results_is_an_error(file: Path) -> None:
    numbers = itertools.count()

    def restless(conversation: Conversation) -> list[Turn]:
        first, *rest = turns_of(conversation)
        number = next(numbers) if conversation.turns[0].content.startswith("Question") else 0
        return [Turn((Segment(f"{number}. "), *first.prompt), first.reply), *rest]

    prepared(loaded(file), turns=restless)
    with pytest.raises(TkError, match="gives different results for the same row"):
        prepared(loaded(file), turns=restless)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "garbage": lambda path: path.write_bytes(b"\0" * 5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_never_read(damage: str, file: Path) -> None:
    expected = digest(prepared(loaded(file)).train)
    for kind in ("rows", "samples"):
        for name in [path.name for path in entries(kind)[0].folder.iterdir()]:
            if (damage, name) == ("a bit", MANIFEST):
                continue  # what a manifest says is compared below
            DAMAGES[damage](entries(kind)[0].folder / name)
            result = prepared(loaded(file))
            assert digest(result.train) == expected
            if kind == "samples":
                assert result.report.cache is not None
                assert result.report.cache.startswith("miss: the entry"), result.report.cache
            assert outcome(loaded(file)).startswith("hit: ")


def test_a_manifest_of_another_key_is_not_believed(file: Path) -> None:
    prepared(loaded(file))
    manifest = entries("samples")[0].folder / MANIFEST
    manifest.write_text(manifest.read_text().replace('"cutoff_len": "2048"', '"cutoff_len": "12"'))
    assert "belongs to another key" in outcome(loaded(file))


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(prepared(loaded(file)).train)
    monkeypatch.setenv("TK_CACHE_DIR", str(file / "below a file"))
    result = prepared(loaded(file))
    assert digest(result.train) == expected
    assert result.report.cache == f"not used: {file}/below a file cannot be written (Not a directory)"


def test_a_cache_that_can_only_be_read_is_read(file: Path, own_cache: Path) -> None:
    prepared(loaded(file))
    for folder in ("locks", "drafts"):
        for path in (own_cache / folder).iterdir():
            path.unlink()
        (own_cache / folder).rmdir()
        (own_cache / folder).write_text("no folder")
    assert outcome(loaded(file)).startswith("hit: ")
    assert "cannot be written" in outcome(loaded(file), cutoff_len=12)


# -- tokenized_path --------------------------------------------------------------------------------


def test_prepared_data_are_saved_and_read_at_tokenized_path(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "prepared"
    first = prepared(loaded(file), tokenized_path=str(target), val_size=3)
    for entry in entries("samples"):
        (entry.folder / MANIFEST).unlink()  # what is read below is not the cache
    second = prepared(loaded(file), tokenized_path=str(target), val_size=3)
    assert second.report.cache is not None
    assert second.report.cache.startswith(f"hit: {target}")
    for name in ("train", "eval"):
        assert getattr(first, name)[:] == getattr(second, name)[:]
    alone = prepared(tokenized_path=str(target), val_size=3)
    assert alone.train is not None
    assert first.train is not None
    assert alone.train[:] == first.train[:]
    assert alone.report.to_json()["datasets"] == first.report.to_json()["datasets"]


def test_prepared_data_of_another_run_are_refused_with_a_diff(file: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "prepared")
    prepared(loaded(file), tokenized_path=target)
    with pytest.raises(LockMismatch) as caught:
        prepared(loaded(file), tokenized_path=target, cutoff_len=12, turns=other_turns)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert "- cutoff_len: 2048" in lines
    assert "+ cutoff_len: 12" in lines
    assert any(line.startswith("- template: tests==1:minimal") for line in lines)
    with pytest.raises(LockMismatch, match="cutoff_len"):
        prepared(tokenized_path=target, cutoff_len=12)
    again = prepared(loaded(file), tokenized_path=target, cutoff_len=12, overwrite_cache=True)
    assert again.report.cache == "miss: overwrite_cache is set"
    assert outcome(loaded(file), tokenized_path=target, cutoff_len=12).startswith("hit: ")


def test_a_folder_that_holds_something_else_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(TkError, match="holds no data that tk has prepared"):
        prepared(loaded(file), tokenized_path=str(tmp_path / "taken"))
    with pytest.raises(TkError, match="no prepared data at `tokenized_path"):
        prepared(tokenized_path=str(tmp_path / "nothing"))


def test_tokenized_path_works_without_a_cache(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TK_CACHE_DIR", str(file / "below a file"))
    target = str(tmp_path / "prepared")
    first = prepared(loaded(file), tokenized_path=target)
    assert digest(prepared(loaded(file), tokenized_path=target).train) == digest(first.train)
    assert outcome(loaded(file), tokenized_path=target).startswith("hit: ")


# -- words -----------------------------------------------------------------------------------------


def test_the_reason_of_a_miss_is_that_of_the_most_similar_entry() -> None:
    key = Key("samples", {"a": "1", "b": "2", "c": "sha256:0"})
    assert missed(key, []) == "miss: nothing is cached yet"
    far, near = {"a": "7", "b": "8", "c": "9", "d": "0"}, {"a": "1", "b": "2", "c": "sha256:1"}
    assert missed(key, [far, near]) == "miss: the c changed"
    assert missed(key, [far]) == "miss: a changed (7 -> 1), b changed (8 -> 2), the c changed and 1 more"
    assert missed(key, [{"a": "1", "b": "2"}]) == "miss: the c is new"


def test_entries_hold_all_that_their_key_is_made_of(file: Path) -> None:
    prepared(loaded(file))
    (entry,) = entries("samples")
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    key = sample_key(request_of(loaded(file)), "supervised", PrepareOptions())
    assert isinstance(key, Key)
    assert manifest["components"] == key.components
    assert entry.folder.name == key.name
    assert entry.size == sum(path.stat().st_size for path in entry.folder.iterdir() if path.name != MANIFEST)


# -- all kinds of rows -----------------------------------------------------------------------------

KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "preference": (
        [{"q": f"Question {n}?", "good": f"Yes {n}", "bad": "No " * (n % 3 + 1)} for n in range(23)],
        {"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
    ),
    "feedback": (
        [{"q": f"Question {n}?", "a": f"Answer {n}", "liked": n % 3 > 0} for n in range(23)],
        {"columns": {"prompt": "q", "response": "a", "kto_tag": "liked"}},
    ),
    "prompt": ([{"instruction": f"Question {n}?", "output": f"Answer {n}"} for n in range(23)], {}),
    "text": ([{"instruction": f"Some text {n}", "output": ""} for n in range(23)], {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_kind_are_the_same_from_the_cache_and_from_processes(
    kind: str, tmp_path: Path
) -> None:
    data, entry = KINDS[kind]
    file = write_jsonl(tmp_path / "rows.jsonl", data)

    def run(**options: Any) -> Any:
        given = {"preprocessing_batch_size": 5, "cutoff_len": 24, "val_size": 4, **options}
        return prepare(request_of(loaded(file, entry=entry, rows=kind), **given), kind)

    first = run()
    assert len(first.train) > 0
    for again, hit in ((run(), True), (run(preprocessing_num_workers=3, overwrite_cache=True), False)):
        assert (again.report.cache or "").startswith("hit: ") == hit
        assert again.train[:] == first.train[:]
        assert again.eval[:] == first.eval[:]
        assert again.report.to_json()["datasets"] == first.report.to_json()["datasets"]

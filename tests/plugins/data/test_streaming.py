"""A stream gives the rows and samples that the whole data would, in an order of seed and pass alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_kit import ALPACA, load, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tkernel.errors import ConfigError, DataError, TkError
from tkernel.planning import open_session
from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.rendering import Segment, Turn
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.mix import merged_order
from tkernel_plugins.data.options import PrepareOptions, RowOptions
from tkernel_plugins.data.prepare import Prepared, prepare
from tkernel_plugins.data.stream_mix import mixed, shuffled
from tkernel_plugins.data.streaming import EncodedStream, Position

STREAM = RowOptions(streaming=True)
DROPPING = RowOptions(streaming=True, on_bad_row="drop")
BAD = {"instruction": "q", "output": ""}


def turns_of(conversation: Conversation) -> list[Turn]:
    messages = conversation.turns
    pairs = zip(messages[::2], messages[1::2], strict=True)
    return [Turn((Segment(q.content + "\n"),), (Segment(a.content), Segment("\n"))) for q, a in pairs]


@pytest.fixture
def renderer(tiny_tokenizer: Any) -> SegmentRenderer:
    return SegmentRenderer("minimal", tiny_tokenizer, turns_of)


def prepared(
    renderer: Any,
    *train: LoadedDataset,
    held_out: tuple[LoadedDataset, ...] = (),
    rows: str = "supervised",
    **options: Any,
) -> Prepared:
    options = {"buffer_size": 8, "preprocessing_batch_size": 5, **options}
    request = StageRequest(
        bundle=None,  # type: ignore[arg-type]
        renderer=renderer,
        train=train,
        eval=held_out,
        options=PrepareOptions(**options),
    )
    return prepare(request, rows)


def stream_of(renderer: Any, *train: LoadedDataset, **options: Any) -> EncodedStream:
    stream = prepared(renderer, *train, **options).train
    assert isinstance(stream, EncodedStream)
    return stream


def streamed(data: list[dict[str, Any]], options: RowOptions = STREAM, **entry: Any) -> LoadedDataset:
    return load(data, options=options, **entry)


def numbers(samples: Any) -> list[int]:
    return [sample["origin"]["row"] for sample in samples]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the media columns that it has nothing in."""
    return {name: value for name, value in row.items() if value != [] or name == "messages"}


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_the_rows_are_those_of_the_whole_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    table = datasets.Dataset.from_list([{name: row[name] for name in row} for row in ALPACA * 10])
    {"csv": table.to_csv, "parquet": table.to_parquet}.get(suffix, lambda path: None)(str(file))
    if suffix == "jsonl":
        write_jsonl(file, ALPACA * 10)
    elif suffix == "json":
        file.write_text(json.dumps(ALPACA * 10))
    whole, stream = load(file), load(file, options=STREAM)
    assert [plain(row) for row in stream.rows] == [plain(row) for row in whole.rows]
    assert stream.report == whole.report


def test_no_more_is_read_than_is_used(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA * 10, BAD])
    stream = load(file, options=STREAM)
    assert len(list(islice(stream.rows, 150))) == 150
    assert stream.report.read == 200
    with pytest.raises(DataError, match=r"rows\.jsonl:301: no reply"):
        list(stream.rows)


def test_max_samples_ends_a_stream(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA, BAD])
    stream = load(file, options=RowOptions(streaming=True, max_samples=30))
    assert (len(list(stream.rows)), stream.report.read) == (30, 30)


def test_bad_rows_are_counted_once_however_often_the_data_is_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ALPACA, BAD, {"instruction": "\ud800", "output": "a"}])
    stream = load(file, options=DROPPING)
    for _ in range(3):
        assert len(list(stream.rows)) == 30
        report = stream.report
        assert (report.read, report.kept, sum(report.rejections.values())) == (32, 30, 2)
        assert [place.line for place in report.rejected] == [31, 32]


def test_a_stream_without_a_usable_row_is_an_error_at_its_end(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [BAD] * 3)
    with pytest.raises(DataError, match="3 of 3 rows"):
        list(load(file, options=DROPPING).rows)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        list(load(tmp_path / "empty.jsonl", options=STREAM).rows)


def test_num_samples_of_a_stream_are_refused_before_anything_is_read() -> None:
    with pytest.raises(DataError, match=r"info\.json:3: dataset 'data' declares `num_samples`"):
        load("absent.jsonl", options=STREAM, num_samples=3, origin="info.json:3")


# -- order -----------------------------------------------------------------------------------------

STRATEGIES = ["concat", "interleave_under", "interleave_over", "interleave_once"]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    strategy=st.sampled_from(STRATEGIES),
    weights=st.none() | st.lists(st.integers(1, 9), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_streams_are_mixed_as_datasets_of_known_length_are(
    lengths: list[int], strategy: str, weights: list[int] | None, seed: int
) -> None:
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    shares = None
    if weights is not None and strategy != "concat":
        chosen = weights[: len(lengths)]
        shares = [weight / sum(chosen) for weight in chosen]

    def source(index: int) -> Iterator[int]:
        return iter(range(starts[index], starts[index] + lengths[index]))

    sources = [lambda index=index: source(index) for index in range(len(lengths))]
    assert (
        list(mixed(sources, strategy, shares, seed)) == merged_order(lengths, strategy, shares, seed).tolist()
    )


def test_what_could_never_end_is_refused() -> None:
    sources = [lambda: iter("ab"), lambda: iter("c")]
    for strategy in ("interleave_over", "interleave_once"):
        with pytest.raises(TkError, match="probability 0 is never drawn"):
            list(mixed(sources, strategy, [1.0, 0.0], 0))
    with pytest.raises(TkError, match="3 numbers for 2 datasets"):
        list(mixed(sources, "interleave_under", [0.2, 0.2, 0.6], 0))
    with pytest.raises(DataError, match="dataset 2 of 2 has no rows"):
        list(mixed([lambda: iter("ab"), lambda: iter("")], "interleave_over", None, 0))


@given(length=st.integers(0, 60), size=st.integers(1, 30), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_a_buffer_gives_every_item_once_and_none_earlier_than_it_is_long(
    length: int, size: int, seed: int, epoch: int
) -> None:
    order = list(shuffled(iter(range(length)), size, seed, epoch))
    assert sorted(order) == list(range(length))
    assert order == list(shuffled(iter(range(length)), size, seed, epoch))
    assert all(item - place < size for place, item in enumerate(order))
    if size == 1:
        assert order == list(range(length))


def test_every_pass_and_every_seed_has_an_order_of_its_own_in_every_process() -> None:
    assert list(shuffled(iter(range(10)), 4, 1, 0)) == [0, 1, 5, 2, 7, 4, 8, 9, 6, 3]
    orders = {tuple(shuffled(iter(range(40)), 16, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


# -- samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"packing": True, "cutoff_len": 64}, {"truncation": "keep_start"}])
def test_the_samples_are_those_of_the_whole_data_in_the_same_batches(
    renderer: Any, options: dict[str, Any]
) -> None:
    options = {"cutoff_len": 16, **options}
    whole = prepared(renderer, load(ALPACA), **options)
    stream = stream_of(renderer, streamed(ALPACA), buffer_size=1, **options)
    samples = [{name: sample[name] for name in whole.train.column_names} for sample in stream]
    assert samples == list(whole.train)
    seen = stream.report
    assert seen.splits == whole.report.splits
    assert [vars(counts) for counts in seen.datasets] == [vars(counts) for counts in whole.report.datasets]


PAIRED = {**ALPACA[0], "chosen": "Good.", "rejected": "Bad.", "kto_tag": True}


@pytest.mark.parametrize("kind", ["preference", "feedback", "prompt", "text"])
def test_samples_of_every_kind_are_those_of_the_whole_data(renderer: Any, kind: str) -> None:
    rows = [{**PAIRED, "instruction": f"Question {n}?", "kto_tag": n % 2 == 0} for n in range(12)]
    columns = {"prompt": "instruction", "response": "output", "chosen": "chosen", "rejected": "rejected"}
    columns |= {"kto_tag": "kto_tag"} if kind == "feedback" else {}
    entry = {"columns": columns, "ranking": kind == "preference", "rows": kind}
    sized = {"rows": kind, "cutoff_len": 40}
    whole = prepared(renderer, load(rows, **entry), **sized)
    stream = prepared(renderer, streamed(rows, **entry), buffer_size=1, **sized)
    names = whole.train.column_names
    assert [{name: one[name] for name in names} for one in stream.train] == list(whole.train)
    assert stream.report.splits == whole.report.splits


def test_rows_of_a_hub_are_streamed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ALPACA)
    whole, stream = (
        load(str(tmp_path), source="hf_hub", options=RowOptions(streaming=streaming))
        for streaming in (False, True)
    )
    assert [plain(row) for row in stream.rows] == [plain(row) for row in whole.rows]


def test_a_pass_has_every_sample_once_and_the_next_one_another_order(renderer: Any) -> None:
    stream = stream_of(renderer, streamed(ALPACA))
    first, again = numbers(stream), numbers(stream)
    stream.set_epoch(1)
    second = numbers(stream)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first == again != second
    assert stream.report.total("encoded") == 30


def test_a_dataset_that_was_read_whole_is_mixed_with_streams(renderer: Any) -> None:
    parts = (streamed(ALPACA[:3], name="stream"), load(ALPACA[3:8], name="whole"))
    for strategy in STRATEGIES:
        options = {"mix_strategy": strategy, "buffer_size": 1}
        whole = prepared(renderer, *(load(rows) for rows in (ALPACA[:3], ALPACA[3:8])), mix_strategy=strategy)
        texts = [sample["input_ids"] for sample in stream_of(renderer, *parts, **options)]
        assert texts == whole.train["input_ids"][:]


def test_a_stream_of_another_plugin_is_read_wholly_also_in_a_worker(renderer: Any) -> None:
    rows = list(load(ALPACA).rows)

    def shards(part: list[int]) -> Iterator[dict[str, Any]]:
        for number in part:
            row = rows[number]
            yield {"messages": row["messages"], "tools": row["tools"]}

    dataset = datasets.IterableDataset.from_generator(shards, gen_kwargs={"part": list(range(30))})
    assert dataset.num_shards == 30
    loaded = LoadedDataset(DatasetEntry("other", "memory"), dataset, DatasetReport("other"))
    stream = stream_of(renderer, loaded)
    expected = [sample["origin"] for sample in stream]
    assert {origin["file"] for origin in expected} == {"other"}
    assert sorted(origin["row"] for origin in expected) == list(range(30))
    loader = DataLoader(_Torch(stream), batch_size=None, num_workers=1, collate_fn=lambda sample: sample)
    assert [sample["origin"] for sample in loader] == expected


class _Torch(__import__("torch").utils.data.IterableDataset):  # type: ignore[misc]
    def __init__(self, stream: EncodedStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.stream)


def test_a_stream_in_which_nothing_can_be_learned_ends_with_an_error(renderer: Any) -> None:
    rows = streamed([{"instruction": "q " * 40, "output": "a"}] * 3, DROPPING)
    stream = stream_of(renderer, rows, cutoff_len=4, truncation="keep_start")
    with pytest.raises(DataError, match="no sample of the stream can be used"):
        next(stream.endless(Position()))


# -- evaluation ------------------------------------------------------------------------------------


def test_val_size_takes_the_first_rows_of_the_shuffled_data_and_no_pass_has_them(renderer: Any) -> None:
    everything = numbers(stream_of(renderer, streamed(ALPACA)))
    both = prepared(renderer, streamed(ALPACA), val_size=6)
    held_out = [origin["row"] for origin in both.eval["origin"]]
    assert held_out == everything[:6]
    assert numbers(both.train) == everything[6:]
    both.train.set_epoch(1)
    assert sorted([*held_out, *numbers(both.train)]) == list(range(30))
    assert both.report.splits == {"evaluation": 6, "training": 24}


def test_a_row_that_is_taken_again_for_mixing_is_not_both_trained_on_and_evaluated_on(renderer: Any) -> None:
    parts = (streamed(ALPACA[:3], name="short"), streamed(ALPACA[3:20], name="long"))
    both = prepared(renderer, *parts, val_size=9, mix_strategy="interleave_over")
    held_out = {tuple(ids) for ids in both.eval["input_ids"]}
    assert held_out.isdisjoint(tuple(sample["input_ids"]) for sample in both.train)


def test_data_to_evaluate_on_is_encoded_once_in_its_order(renderer: Any) -> None:
    parts = {"one": ALPACA[:7], "two": ALPACA[7:12]}
    held_out = tuple(streamed(rows, name=name) for name, rows in parts.items())
    joined = prepared(renderer, streamed(ALPACA), held_out=held_out)
    assert len(joined.eval) == 12
    apart = prepared(renderer, streamed(ALPACA), held_out=held_out, eval_on_each_dataset=True)
    assert {name: len(rows) for name, rows in apart.eval.items()} == {"one": 7, "two": 5}
    assert [counts.split for counts in apart.report.datasets] == ["train", "eval", "eval"]


# -- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"packing": True, "cutoff_len": 60}, {"val_size": 4}])
def test_from_every_position_the_rest_is_what_it_was(renderer: Any, options: dict[str, Any]) -> None:
    def stream() -> EncodedStream:
        rows = [*ALPACA[:9], BAD, *ALPACA[9:17]]
        mix = {"mix_strategy": "interleave_over"}
        return stream_of(renderer, streamed(rows, DROPPING), streamed(ALPACA[20:23]), **mix, **options)

    whole = list(islice(stream().endless(Position()), 90))
    assert whole[-1][1].epoch > 1
    for index in (0, 1, 7, 12, 40, 70):
        saved = Position(**json.loads(json.dumps(vars(whole[index][1]))))
        again = stream()
        rest = list(islice(again.endless(saved), 89 - index))
        assert [sample for sample, _ in rest] == [sample for sample, _ in whole[index + 1 :]]
        assert rest[-1][1] == whole[-1][1]


def test_rows_before_a_position_are_not_encoded_again(renderer: Any) -> None:
    position = next(islice(stream_of(renderer, streamed(ALPACA)).endless(Position()), 22, None))[1]
    stream = stream_of(renderer, streamed(ALPACA))
    encoded: list[int] = []
    work = stream.work
    stream.work = lambda table, numbers: encoded.append(table.num_rows) or work(table, numbers)  # type: ignore
    next(stream.endless(position))
    assert (position.batch, encoded) == (4, [5])


def test_other_data_than_before_is_told(renderer: Any) -> None:
    position = next(islice(stream_of(renderer, streamed(ALPACA)).endless(Position()), 11, None))[1]
    for rows, options in ((ALPACA[1:], {}), (ALPACA, {"buffer_size": 9}), (ALPACA[:3], {})):
        stream = stream_of(renderer, streamed(rows), **options)
        with pytest.raises(DataError, match="the stream is not what it was"):
            list(islice(stream.endless(replace(position, counted={})), 30))


def test_other_datasets_than_before_are_told(renderer: Any) -> None:
    position = next(stream_of(renderer, streamed(ALPACA)).endless(Position()))[1]
    stream = stream_of(renderer, streamed(ALPACA, name="other"))
    with pytest.raises(DataError, match="it read data, and now other"):
        next(stream.endless(position))


def test_a_position_is_found_again_beside_data_to_evaluate_on(renderer: Any) -> None:
    def stream() -> EncodedStream:
        held_out = (streamed(ALPACA[:3], name="held out"),)
        return prepared(renderer, streamed(ALPACA), held_out=held_out).train

    whole = list(islice(stream().endless(Position()), 40))
    rest = list(islice(stream().endless(whole[9][1]), 30))
    assert rest == whole[10:]


# -- planning --------------------------------------------------------------------------------------


def test_what_streaming_needs_and_rules_out_is_told_with_the_line_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    tiny.save_model(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", ALPACA)
    lines = [
        f"model_name_or_path: {tmp_path / 'model'}",
        f"dataset: {tmp_path / 'rows.jsonl'}",
        f"output_dir: {tmp_path / 'out'}",
        "streaming: true",
        "val_size: 0.1",
        "save_strategy: epoch",
        "tokenized_path: here",
        "train_sampling_strategy: group_by_length",
    ]
    (tmp_path / "train.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError) as caught:
        open_session(str(tmp_path / "train.yaml"))
    message = str(caught.value)
    told = [
        "4: `streaming: true` needs `max_steps`",
        "5: `val_size: 0.1` is a share",
        "6: `save_strategy: epoch`",
    ]
    told += ["7: `tokenized_path`", "8: samples of a stream cannot be grouped"]
    for part in told:
        assert f"train.yaml:{part}" in message
    lines = [*lines[:4], "max_steps: 3", "val_size: 2"]
    (tmp_path / "train.yaml").write_text("\n".join(lines) + "\n")
    open_session(str(tmp_path / "train.yaml"))


def test_streaming_is_refused_where_no_format_of_the_run_streams(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}])
    info = {"mine": {"file_name": "rows.jsonl", "formatting": "demo"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    plugin = Path(__file__).parents[2] / "third_party" / "tk-demo-dataset" / "tk_demo_dataset.py"
    wanted = {"dataset": "mine", "dataset_dir": str(tmp_path), "plugins": [str(plugin)]}
    wanted |= {"model_name_or_path": str(tmp_path / "model"), "output_dir": str(tmp_path / "out")}
    open_session(wanted)
    with pytest.raises(
        ConfigError, match=r"streaming belongs to dataset:alpaca .* this run uses dataset:demo"
    ):
        open_session({**wanted, "streaming": True, "max_steps": 3})

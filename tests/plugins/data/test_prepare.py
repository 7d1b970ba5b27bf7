"""Preparation keeps order and origin, counts everything, and drops nothing silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_kit import ALPACA, from_info, load

from tkernel.config.bind import Owner, bind
from tkernel.config.settle import settle
from tkernel.errors import ConfigError, DataError, TkError
from tkernel.rendering import SegmentRenderer
from tkernel.types.conversation import Conversation
from tkernel.types.dataset import LoadedDataset
from tkernel.types.rendering import Segment, Turn
from tkernel.types.requests import StageRequest, TemplateRequest
from tkernel_plugins.data.collator import SupervisedCollator
from tkernel_plugins.data.options import PrepareOptions, RowOptions
from tkernel_plugins.data.prepare import Prepared, prepare
from tkernel_plugins.data.truncation import truncate


def turns_of(conversation: Conversation) -> list[Turn]:
    """A minimal template; it refuses questions that say so."""
    turns = []
    messages = conversation.turns
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        if "unrenderable" in question.content:
            raise DataError("this question cannot be rendered")
        prompt, reply = Segment(question.content + "\n"), (Segment(answer.content), Segment("\n"))
        turns.append(Turn((prompt,), reply, trained=answer.train, weight=answer.weight))
    return turns


@pytest.fixture
def renderer(tiny_tokenizer: Any) -> SegmentRenderer:
    return SegmentRenderer("minimal", tiny_tokenizer, turns_of)


def prepared(
    renderer: Any,
    *train: LoadedDataset,
    held_out: tuple[LoadedDataset, ...] = (),
    media: Any = None,
    settings: dict[str, Any] | None = None,
    seed: int = 42,
    **options: Any,
) -> Prepared:
    request = StageRequest(
        bundle=None,  # type: ignore[arg-type]
        renderer=renderer,
        train=train,
        eval=held_out,
        media=media,
        options=PrepareOptions(**options),
        settings=settings or {},
        seed=seed,
    )
    return prepare(request)


def rows_of(samples: Any) -> list[int]:
    return [origin["row"] for origin in samples["origin"]]


def named(name: str, rows: list[dict[str, Any]]) -> LoadedDataset:
    return load(rows, name=name)


def test_samples_keep_the_order_of_datasets_and_rows_whatever_the_batch(renderer: Any) -> None:
    whole = prepared(renderer, named("a", ALPACA), named("b", ALPACA[:3])).train
    small = prepared(renderer, named("a", ALPACA), named("b", ALPACA[:3]), preprocessing_batch_size=7).train
    assert whole is not None
    assert small is not None
    assert [origin["file"] for origin in whole["origin"]] == ["a"] * 30 + ["b"] * 3
    assert rows_of(whole) == [*range(30), *range(3)]
    assert whole[:] == small[:]
    assert set(whole.column_names) == {"input_ids", "labels", "origin"}


def test_ids_and_labels_are_those_of_the_renderer(renderer: Any) -> None:
    loaded = named("a", ALPACA)
    train = prepared(renderer, loaded, mask_history=True, cutoff_len=9).train
    whole = renderer.encode([Conversation.from_row(row) for row in loaded.rows], mask_history=True)
    direct = [cut for one in whole for cut in truncate(one, 9, last_first=True, ends=False)]
    assert train is not None
    assert train["input_ids"][:] == [encoded.input_ids for encoded in direct]
    assert train["labels"][:] == [encoded.labels for encoded in direct]


def test_several_processes_give_the_same_samples_and_counts(renderer: Any) -> None:
    one = prepared(renderer, named("a", ALPACA), cutoff_len=9)
    two = prepared(renderer, named("a", ALPACA), cutoff_len=9, preprocessing_num_workers=2)
    assert one.train is not None
    assert two.train is not None
    assert one.train[:] == two.train[:]
    assert one.report.to_json()["datasets"] == two.report.to_json()["datasets"]


@pytest.mark.parametrize(("val_size", "count"), [(0.1, 4), (5, 5), (0.5, 16)])
def test_val_size_takes_the_rows_that_datasets_takes(renderer: Any, val_size: float, count: int) -> None:
    both = (named("a", ALPACA), named("b", ALPACA[:1]))
    result = prepared(renderer, *both, val_size=val_size, seed=7)
    from datasets import Dataset

    split = Dataset.from_dict({"n": range(31)}).train_test_split(test_size=val_size, seed=7)
    numbers = [*range(30), 0]
    assert result.train is not None
    assert rows_of(result.train) == [numbers[n] for n in split["train"]["n"]]
    assert rows_of(result.eval) == [numbers[n] for n in split["test"]["n"]]
    assert len(result.eval) == count


@pytest.mark.parametrize("val_size", [30, 31, 0.99])
def test_val_size_that_leaves_nothing_is_refused(renderer: Any, val_size: float) -> None:
    with pytest.raises(TkError, match="leaves none of the 30 rows"):
        prepared(renderer, named("a", ALPACA), val_size=val_size)


def test_val_size_and_eval_dataset_exclude_each_other(renderer: Any) -> None:
    with pytest.raises(TkError, match="Leave one of the two out"):
        prepared(renderer, named("a", ALPACA), held_out=(named("b", ALPACA),), val_size=0.1)


def test_evaluation_data_is_one_dataset_or_one_for_each_entry(renderer: Any) -> None:
    held_out = (named("b", ALPACA[:3]), named("c", ALPACA[:4]))
    one = prepared(renderer, named("a", ALPACA), held_out=held_out)
    each = prepared(renderer, named("a", ALPACA), held_out=held_out, eval_on_each_dataset=True)
    assert len(one.eval) == 7
    assert {name: len(rows) for name, rows in each.eval.items()} == {"b": 3, "c": 4}
    assert one.report.splits == each.report.splits == {"training": 30, "evaluation": 7}


def test_samples_without_anything_to_learn_are_counted_and_named(renderer: Any) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False}]
    bad = load(
        [{"messages": messages}] * 2 + [{"messages": [messages[0], messages[1] | {"train": True}]}], "openai"
    )
    result = prepared(renderer, named("a", ALPACA), bad)
    assert result.train is not None
    assert len(result.train) == 31
    counts = result.report.to_json()["datasets"][1]
    assert (counts["read"], counts["kept"], counts["rejected"]) == (3, 1, {"nothing to learn": 2})
    assert [place["row"] for place in counts["first_rejected"]] == [0, 1]


def test_a_row_that_cannot_be_rendered_is_an_error_that_names_it_or_is_counted(renderer: Any) -> None:
    rows = [*ALPACA, {"instruction": "unrenderable", "output": "x"}, *ALPACA]
    with pytest.raises(DataError, match=r"a row 30: this question cannot be rendered"):
        prepared(renderer, named("a", rows))
    result = prepared(renderer, named("a", rows), settings={"on_bad_row": "drop"})
    assert result.train is not None
    assert rows_of(result.train) == [*range(30), *range(31, 61)]
    assert "first a row 30" in result.report.lines()[2]


def test_nothing_usable_is_an_error_with_the_first_reasons(renderer: Any) -> None:
    rows = [{"instruction": "q " * 50, "output": "x"}]
    with pytest.raises(DataError, match=r"no sample of dataset 'a' can be used\n  a row 0: nothing to learn"):
        prepared(renderer, named("a", rows), cutoff_len=1)


def test_media_without_a_processor_are_refused(renderer: Any) -> None:
    rows = [{"instruction": "<image>q", "output": "x", "images": ["a.png"]}]
    with pytest.raises(
        DataError, match="data row 0: the row has images, and the model of this run takes none"
    ):
        prepared(renderer, load(rows, None))


def test_placeholders_are_expanded_before_encoding_and_references_kept(renderer: Any) -> None:
    class Media:
        """Two tokens an image; refuses a row with more placeholders than images."""

        def expand(self, conversation: Conversation) -> Conversation:
            text = "".join(message.content for message in conversation.messages)
            if text.count("<image>") != len(conversation.images):
                raise DataError(f"{text.count('<image>')} placeholders and {len(conversation.images)} images")
            first, *rest = conversation.messages
            changed = Conversation((type(first)("user", first.content.replace("<image>", "##")), *rest))
            return changed

        def collate(self, samples: Any) -> dict[str, Any]:
            return {}

    rows = [
        {"instruction": "<image>q", "output": "x", "images": ["a.png"]},
        {"instruction": "q", "output": "x"},
    ]
    train = prepared(renderer, load(rows, None), media=Media()).train
    assert train is not None
    assert train["images"][:] == [[{"path": "a.png", "bytes": None}], []]
    assert renderer.tokenizer.decode(train[0]["input_ids"]).startswith("##q")
    rows.append({"instruction": "<image><image>q", "output": "x", "images": ["a.png"]})
    with pytest.raises(DataError, match="data row 2: 2 placeholders and 1 images"):
        prepared(renderer, load(rows, None), media=Media())


def test_weights_are_there_only_where_the_data_has_them(renderer: Any) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]
    train = prepared(renderer, named("a", ALPACA), load([{"messages": messages}], "openai")).train
    assert train is not None
    assert train["weights"][:30] == [None] * 30
    assert set(train["weights"][30]) >= {0.5}
    assert len(train["weights"][30]) == len(train["input_ids"][30])


def test_the_report_counts_every_row_and_token_in_a_few_lines(renderer: Any) -> None:
    result = prepared(renderer, named("a", ALPACA), cutoff_len=9)
    (counts,) = result.report.to_json()["datasets"]
    full = renderer.encode([Conversation.from_row(row) for row in named("a", ALPACA).rows])
    assert result.train is not None
    assert counts["tokens"] == sum(map(len, result.train["input_ids"]))
    assert counts["tokens"] + counts["tokens_lost"] == sum(len(encoded.input_ids) for encoded in full)
    assert counts["truncated"] == sum(len(encoded.input_ids) > 9 for encoded in full)
    lines = result.report.lines()
    assert [line.split()[0] for line in lines] == ["read", "kept", "truncated", "tokens"]
    assert lines[0].split() == ["read", "30", "rows:", "a", "30"]
    assert lines[1].endswith(", none rejected")
    assert json.loads(json.dumps(result.report.to_json())) == result.report.to_json()


def test_columns_that_nobody_reads_are_on_the_screen(renderer: Any) -> None:
    rows = [{"instruction": "q", "input": "", "output": "a", "system": "S"}]
    lines = prepared(renderer, named("a", rows)).report.lines()
    assert lines[0].split(maxsplit=1)[1] == "1 rows: a 1 (columns not read: system)"


def test_encoding_leaves_a_line_on_stderr_and_the_cache_another(
    renderer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(renderer, named("a", ALPACA), named("b", ALPACA))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" in ")[0] for line in err.splitlines()] == [
        "cache: not used: the template is an object",
        "encode a, b: 60 rows",
    ]


def test_strange_text_is_encoded_as_it_is(renderer: Any) -> None:
    texts = ["\0", "😀" * 3000, "\u2028\r\nx", "<|im_end|>", "x" * 100_000]
    rows = [{"instruction": text, "output": text} for text in texts]
    train = prepared(renderer, named("a", rows), cutoff_len=10**6).train
    assert train is not None
    assert [renderer.tokenizer.decode(ids) for ids in train["input_ids"]] == [f"{t}\n{t}\n" for t in texts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 1.5}, "val_size must be a share"),
        ({"interleave_probs": (0.5, 0.5)}, "interleave_probs is for interleaving"),
        ({"mix_strategy": "interleave_over", "interleave_probs": (0.5, 0.6)}, "shares that add up to 1"),
        ({"mix_strategy": "interleave_over", "interleave_probs": (1.5, -0.5)}, "shares that add up to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(**options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cutoff_len", 0),
        ("val_size", -0.1),
        ("preprocessing_num_workers", 0),
        ("preprocessing_batch_size", 0),
        ("max_samples", 0),
    ],
)
def test_a_number_out_of_range_is_a_problem_of_the_configuration(key: str, value: float) -> None:
    owners = [Owner("stage:sft", "tkernel", PrepareOptions), Owner("dataset:text", "tkernel", RowOptions)]
    with pytest.raises(ConfigError, match=f"{key} must be at least"):
        bind(settle({key: value}), owners)


def test_micro_batches_are_those_of_llama_factory_in_its_order(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Trainer, TrainingArguments

    from tkernel.testing import tiny
    from tkernel_plugins.templates.vendors.huggingface import SMOLLM2

    tokenizer = AutoTokenizer.from_pretrained(shared / "golden" / "smollm2-tokenizer")
    renderer = SMOLLM2.render_template(TemplateRequest("smollm2", tokenizer, options=SMOLLM2.Options()))
    loaded = [from_info(shared / "data", name) for name in ("identity", "alpaca_en_demo")]
    samples = prepared(renderer, *loaded, cutoff_len=512)
    arguments = TrainingArguments(
        str(tmp_path), seed=42, data_seed=42, per_device_train_batch_size=2, use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        tiny.make_model("llama"), arguments, train_dataset=samples.train,
        data_collator=SupervisedCollator(tokenizer.pad_token_id),
    )  # fmt: skip
    with gzip.open(shared / "golden" / "batches_sft_fp32.jsonl.gz", "rt") as file:
        golden = [json.loads(line) for line in file]
    for expected, batch in zip(golden, trainer.get_train_dataloader(), strict=False):
        for name in ("input_ids", "labels", "attention_mask"):
            assert batch[name].tolist() == expected[name], (expected["step"], expected["micro"], name)

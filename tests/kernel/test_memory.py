"""What a notebook gives: taken if it is what its name says, else refused in words before anything happens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tkernel
from tkernel.errors import UsageError
from tkernel.memory import InMemory, rows_in_memory

ROWS = [{"instruction": "a", "output": "b"}]
MODEL = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {"model_type": "llama"}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overrides": {"seed": 1}}, "overrides is a dict, and a list of words, `key=value` is wanted"),
        ({"overrides": [5]}, "5 is no override"),
        ({"plugins": 5}, "plugins is an int, and a list of names or plugin objects is wanted"),
        ({"plugins": [5]}, "one of plugins is an int"),
        ({"callbacks": [3]}, "one of callbacks is an int, and a `transformers.TrainerCallback` is wanted"),
        ({"callbacks": 3}, "callbacks is an int"),
        (
            {"train_dataset": 5},
            "train_dataset is an int, and a list of dicts, or a `datasets.Dataset` is wanted",
        ),
        ({"train_dataset": "rows.jsonl"}, "train_dataset is a str"),
        ({"train_dataset": []}, "train_dataset has no rows"),
        ({"train_dataset": ["a"]}, "the first row of train_dataset is a str, and a dict is wanted"),
        ({"train_dataset": ROWS, "eval_dataset": {"instruction": ["a"]}}, "eval_dataset is a dict"),
        ({"model": "folder"}, "model is a str, and a `transformers` model is wanted"),
        ({"model": MODEL, "tokenizer": 5}, "tokenizer is an int"),
        ({"tokenizer": SimpleNamespace(decode=1)}, "a tokenizer or processor is given and its model is not"),
        ({"config": ["a"]}, "a list is no configuration"),
        ({"config": b"train.yaml"}, "a bytes is no configuration"),
    ],
)
def test_an_object_of_the_wrong_kind_is_refused_with_what_is_wanted(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tkernel.run(**{"config": {"output_dir": "out"}, **given})
    assert message in caught.value.message


def test_a_path_given_as_model_is_told_where_to_write_it() -> None:
    with pytest.raises(UsageError) as caught:
        InMemory(model="folder")
    assert caught.value.hint == "Write a path as `model_name_or_path`."


def test_rows_of_a_generator_are_kept_and_their_columns_known() -> None:
    rows, columns = rows_in_memory("train_dataset", (row for row in ROWS))
    assert (rows, columns) == (ROWS, ("instruction", "output"))


def test_rows_with_column_names_are_not_read() -> None:
    rows = SimpleNamespace(column_names=["text"], __iter__=None)
    table = type("Table", (), {"column_names": ["text"], "__iter__": lambda self: iter(())})()
    assert rows_in_memory("train_dataset", table) == (table, ("text",))
    with pytest.raises(UsageError) as caught:
        rows_in_memory("train_dataset", {"train": rows, "test": rows})
    assert caught.value.hint == "Give one of its parts: 'train', 'test'."

"""Objects in memory given to `tkernel.run`."""

from __future__ import annotations

import pytest

import tkernel
from tkernel.errors import ConfigError
from tkernel.testing import tiny

ROWS = [{"instruction": "Hello", "output": "Hello to you."}] * 3


def run(folder, **changes):
    bundle = tiny.make_bundle()
    given = {"model": bundle.module, "tokenizer": bundle.tokenizer, "train_dataset": ROWS, **changes}
    return tkernel.run({"output_dir": str(folder / "out"), "max_steps": 1}, **given)


def test_rows_from_a_generator_are_all_read(tmp_path):
    assert run(tmp_path, train_dataset=(row for row in ROWS)).steps == 1
    assert "| Data | dataset" in (tmp_path / "out/README.md").read_text()


def test_a_model_without_its_tokenizer_is_a_mistake_that_says_what_to_add(tmp_path):
    with pytest.raises(ConfigError, match="tokenizer") as caught:
        run(tmp_path, tokenizer=None)
    assert [problem.hint for problem in caught.value.problems] == ["Add `tokenizer=...`."]


@pytest.mark.parametrize("seed", [2**32, 10**20, -1])
def test_a_seed_that_numpy_does_not_take_is_a_mistake(tmp_path, seed):
    with pytest.raises(ConfigError, match="seed must be at"):
        tkernel.run({"output_dir": str(tmp_path / "out"), "seed": seed}, train_dataset=ROWS)

"""Models beside the trained one: found while planning, loaded when the stage asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributions import Site
from toy import Toy


@pytest.fixture
def toy(site: Site, tmp_path: Path) -> Toy:
    folder = tmp_path / "work"
    folder.mkdir()
    made = Toy(site, folder)
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text("{}")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"model_type": "toy"}')
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "reference model hi"),
        (("toy_reference=other",), "reference other hi"),
        (("toy_reference=other", "toy_reference_adapters=one,two"), "reference other one two hi"),
        (("toy_reference=one",), "reference model one hi"),
        (("adapter_name_or_path=two",), "reference model two hi"),
    ],
    ids=["the run's own", "another", "with adapters", "an adapter alone", "the run's own with its adapters"],
)
def test_a_stage_loads_a_model_for_a_role(toy: Toy, words: tuple[str, ...], said: str) -> None:
    done = toy.tk("run", "run.yaml", "toy_mode=other", *words)
    assert done.returncode == 0, done.stderr
    assert (toy.folder / "out/other.txt").read_text() == said


def test_the_plan_and_the_lock_name_it(toy: Toy) -> None:
    done = toy.tk("run", "run.yaml", "toy_mode=other", "toy_reference=other")
    assert done.returncode == 0, done.stderr
    locked = json.loads((toy.folder / "out/run.lock.json").read_text())
    assert locked["plan"]["model reference"] == "tk-toy==0.1:toy = tk_toy:MODEL"
    assert "model reference" in locked["hashes"]


def test_one_that_is_missing_is_an_error_while_planning(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "toy_reference=./othr", "toy_reference_adapters=thre")
    assert done.returncode == 2
    assert "There is no model at ./othr." in done.stderr
    done = toy.tk("plan", "run.yaml", "toy_reference=other", "toy_reference_adapters=thre")
    assert done.returncode == 2
    assert "There is no adapter folder thre." in done.stderr


def test_an_url_is_no_model(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "toy_reference=http://localhost:1/score")
    assert done.returncode == 0, done.stderr

"""A plugin's own `check` is asked while a run is planned; what it finds is one more problem with a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import Site
from toy import Toy

CHECKING = '''
from dataclasses import dataclass, field
from tkernel import hookimpl
from tkernel.errors import Problem, TkError

@dataclass(frozen=True)
class Options:
    """Options."""
    deep_layers: int = field(default=1, metadata={"ge": 1})
    deep_width: int = 1

class Deep:
    name, Options = "deep", Options

    def check(self, request):
        if request.options.deep_layers > 3:
            yield Problem("`deep_layers` is too many", key="deep_layers", hint="Take 3.")
        if request.options.deep_width < request.options.deep_layers:
            yield Problem("`deep_width` is less than `deep_layers`", key="deep_width")
        if "deep_width" not in request.settings:
            yield Problem("nobody set `deep_width`", key="deep_width")
        if request.options.deep_layers == 3:
            yield Problem(f"{request.run.output_dir} {request.facts} {request.train} {request.eval}")

    @hookimpl
    def train_stage(self, request): ...

class Failing(Deep):
    name = "failing"
    def check(self, request): return 1 // 0

class Refusing(Deep):
    name = "refusing"
    def check(self, request): raise TkError("not on Mondays")

DEEP, FAILING, REFUSING = Deep(), Failing(), Refusing()
'''


@pytest.fixture
def toy(site: Site, tmp_path: Path) -> Toy:
    folder = tmp_path / "work"
    folder.mkdir()
    site.distribution(
        "tk-deep", {"stage": {"deep": "DEEP", "failing": "FAILING", "refusing": "REFUSING"}}, CHECKING
    )
    toy = Toy(site, folder)
    text = (
        (folder / "run.yaml").read_text().replace("stage: toy", "stage: deep").replace("toy_steps: 3\n", "")
    )
    (folder / "run.yaml").write_text(text)
    return toy


def test_what_a_check_finds_is_told_with_line_and_hint_beside_every_other_problem(toy: Toy) -> None:
    with (toy.folder / "run.yaml").open("a") as file:
        file.write("deep_layers: 4\ndeep_width: 9\ntoy_sise: 1\n")
    done = toy.tk("plan", "run.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        "tk: 2 problems in the configuration\n"
        "  run.yaml:9: `deep_layers` is too many\n    Take 3.\n"
        "  run.yaml:11: unknown key 'toy_sise'\n    Did you mean 'toy_size'?\n"
    )


def test_a_problem_that_names_a_key_whose_value_is_wrong_already_waits(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "deep_layers=0", "deep_width=0")
    assert done.stderr == (
        "tk: 1 problem in the configuration\n  command line: deep_layers must be at least 1, not 0\n"
    )


def test_a_key_that_nobody_set_can_be_told_from_one_at_its_default(toy: Toy) -> None:
    assert "nobody set `deep_width`" in toy.tk("plan", "run.yaml").stderr
    assert (
        toy.tk("plan", "run.yaml", "deep_width=1", "deep_layers=4").stderr.count("deep_width` is less") == 1
    )


def test_a_check_knows_the_run(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "deep_layers=3", "deep_width=3")
    assert "out ModelFacts(name='model'" in done.stderr
    assert "('rows',) ()" in done.stderr


def test_a_check_that_raises_an_error_for_the_user_adds_it_to_the_others(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "stage=refusing", "nothing=1")
    assert done.returncode == 2
    assert "not on Mondays" in done.stderr
    assert "unknown key 'nothing'" in done.stderr


def test_a_check_that_fails_is_an_error_of_its_plugin(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "stage=failing")
    assert done.returncode == 3
    assert done.stderr.startswith("tk: the check of stage:failing fails: ZeroDivisionError")


def test_only_the_kinds_that_will_be_called_are_asked(toy: Toy) -> None:
    code = "from tkernel.pipeline import open_session\nopen_session('run.yaml', calls=('engine',))"
    done = toy.site.run(f"import os; os.chdir({str(toy.folder)!r})\n{code}")
    assert done.returncode == 0, done.stderr

"""An output folder that holds a run: gone on with if nothing that counts has changed, done if finished, else refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributions import Site
from toy import Toy

RESUME = "resume_from_checkpoint=true"


@pytest.fixture
def toy(site: Site, tmp_path: Path) -> Toy:
    folder = tmp_path / "work"
    folder.mkdir()
    return Toy(site, folder)


def killed(toy: Toy, *words: str) -> None:
    """A run that leaves a checkpoint and no result; going on with it ends it."""
    assert toy.tk("run", "run.yaml", "toy_mode=killed", *words).returncode == 130


def test_a_finished_run_started_again_does_nothing_and_says_so(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml").returncode == 0
    before = {path: path.read_bytes() for path in (toy.folder / "out").iterdir()}
    again = toy.tk("run", "run.yaml", RESUME, "overwrite_output_dir=true")
    assert again.stdout == "out is finished after 3 steps; nothing is left to do\n", again.stderr
    assert {path: path.read_bytes() for path in (toy.folder / "out").iterdir()} == before


def test_a_run_that_was_cut_off_is_gone_on_with(toy: Toy) -> None:
    killed(toy)
    assert "result" not in json.loads((toy.folder / "out/run.lock.json").read_text())
    done = toy.tk("run", "run.yaml", "toy_mode=killed", RESUME)
    assert done.stdout == "saved to out after 3 steps\n", done.stderr
    assert json.loads((toy.folder / "out/run.lock.json").read_text())["result"]["steps"] == 3


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("learning_rate=1e-4",), ["- settings learning_rate: (none)", "+ settings learning_rate: 0.0001"]),
        (("seed=7",), ["- seeds seed: 42", "+ seeds seed: 7"]),
        (("finetuning_type=whole",), ["- plan adapter: tk-toy==0.1:toy = tk_toy:ADAPTER"]),
        (("max_steps=4",), ["- settings max_steps: 9", "+ settings max_steps: 4"]),
    ],
    ids=["an argument", "the seed", "the method", "fewer steps"],
)
def test_other_settings_are_refused_with_a_diff(toy: Toy, words: tuple[str, ...], lines: list[str]) -> None:
    killed(toy, "max_steps=9")
    refused = toy.tk("run", "run.yaml", "toy_mode=killed", "max_steps=9", RESUME, *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith("tk: out holds a run of something else, and cannot be gone on with:\n")
    for line in lines:
        assert f"\n  {line}" in refused.stderr, refused.stderr
    assert "`warm_start: out/checkpoint-1` with another `output_dir`, or `--warm-start`." in refused.stderr


def test_other_data_template_model_and_plugin_versions_are_refused(toy: Toy) -> None:
    killed(toy)
    (toy.folder / "rows.txt").write_text("other\n")
    (toy.folder / "model/config.json").write_text('{"model_type": "toy", "hidden_size": 2}')
    metadata = next(toy.site.folder.glob("tk_toy*/METADATA"))
    metadata.write_text(metadata.read_text().replace("Version: 0.1", "Version: 0.2"))
    refused = toy.tk("run", "run.yaml", "toy_mode=killed", RESUME)
    assert refused.returncode == 2
    for line in (
        "- hashes dataset rows: sha256:",
        "- hashes model: sha256:",
        "+ plan template: tk-toy==0.2:toy = tk_toy:TEMPLATE",
    ):
        assert line in refused.stderr, refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("save_steps=7",),
        ("learning_rate=5e-5",),
        ("max_steps=99",),
        ("model_name_or_path=./model",),
        ("toy_token=hf_secret",),
        ("toy_note=again",),
    ],
    ids=["saving", "a default, written", "more steps", "another spelling", "a token", "a free option"],
)
def test_what_does_not_change_the_training_may_differ(toy: Toy, words: tuple[str, ...]) -> None:
    killed(toy, "max_steps=9")
    done = toy.tk("run", "run.yaml", "toy_mode=killed", "max_steps=9", RESUME, *words)
    assert done.returncode == 0, done.stderr


def test_a_finished_run_with_more_steps_to_do_goes_on(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "max_steps=2").returncode == 0
    assert "nothing is left" in toy.tk("run", "run.yaml", "max_steps=2", RESUME).stdout
    assert toy.tk("run", "run.yaml", "max_steps=5", RESUME).stdout == "saved to out after 3 steps\n"


def test_a_run_that_failed_before_its_first_step_binds_nobody(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "toy_mode=fail").returncode == 1
    assert toy.tk("run", "run.yaml", "seed=7", RESUME).returncode == 0


def test_warm_start_begins_a_new_run_from_the_weights_of_another(toy: Toy) -> None:
    killed(toy)
    done = toy.tk("run", "run.yaml", "learning_rate=1e-4", "warm_start=out", "output_dir=new")
    assert done.stdout == "saved to new after 3 steps\n", done.stderr
    assert (toy.folder / "new/from.txt").read_text() == "model out/checkpoint-1"
    locked = json.loads((toy.folder / "new/run.lock.json").read_text())["settings"]
    assert "warm_start" not in locked
    assert locked["adapter_name_or_path"]["origin"] == "warm_start (command line)"
    resumed = toy.tk("run", "run.yaml", "learning_rate=1e-4", "warm_start=out", "output_dir=new", RESUME)
    assert "new is finished" in resumed.stdout, resumed.stderr


def test_the_flag_writes_beside_the_earlier_run_and_leaves_it_alone(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "finetuning_type=whole").returncode == 0
    before = (toy.folder / "out/run.lock.json").read_bytes()
    for name in ("out-2", "out-3"):
        done = toy.tk("run", "run.yaml", "--warm-start", "finetuning_type=whole")
        assert done.stdout == f"saved to {name} after 3 steps\n", done.stderr
        assert (toy.folder / name / "from.txt").read_text() == "out"
    assert (toy.folder / "out/run.lock.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("warm_start=nowhere",), "command line: there is nothing to start from in nowhere"),
        (("warm_start=true", RESUME), "command line: `warm_start: true` begins a new run, and"),
        (("warm_start=true",), "command line: there is nothing to start from in out"),
        (("warm_start=[1]",), "command line: warm_start wants true or false or text, not"),
    ],
)
def test_a_start_that_cannot_be_is_told_while_planning(
    toy: Toy, words: tuple[str, ...], message: str
) -> None:
    done = toy.tk("plan", "run.yaml", *words)
    assert done.returncode == 2
    assert message in done.stderr, done.stderr

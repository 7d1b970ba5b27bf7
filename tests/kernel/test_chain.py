"""`stages:` in one file: each goes on from what the ones before it made, and all are planned before the first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from distributions import Site
from toy import YAML, Toy

COMMON = YAML.replace("stage: toy\n", "").replace("output_dir: out\ntoy_steps: 3\n", "output_dir: out\n")


@pytest.fixture
def toy(site: Site, tmp_path: Path) -> Toy:
    folder = tmp_path / "work"
    folder.mkdir()
    return Toy(site, folder)


def chain(toy: Toy, stages: str, common: str = COMMON) -> None:
    (toy.folder / "run.yaml").write_text(f"{common}stages:\n{stages}")


def began(toy: Toy, name: str) -> str:
    return (toy.folder / "out" / name / "from.txt").read_text()


def test_adapters_are_trained_further_and_whole_models_replace_the_one_before(toy: Toy) -> None:
    chain(
        toy,
        "  - stage: toy\n  - stage: toy\n    toy_steps: 2\n"
        "  - stage: toy\n    name: whole\n    finetuning_type: whole\n    model_name_or_path: model\n"
        "  - stage: toy\n    name: last\n    finetuning_type: toy\n",
    )
    done = toy.tk("run", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert began(toy, "toy") == "model"
    assert began(toy, "toy-2") == "model out/toy"
    assert began(toy, "whole") == "model"
    assert began(toy, "last") == "out/whole"
    assert done.stdout.splitlines()[:4] == [
        "stage toy, to out/toy",
        "saved to out/toy after 1 steps",
        "stage toy-2, to out/toy-2",
        "saved to out/toy-2 after 2 steps",
    ]
    locked = json.loads((toy.folder / "out/toy-2/run.lock.json").read_text())
    assert locked["settings"]["toy_steps"] == {"origin": "run.yaml:11", "value": 2}
    assert locked["settings"]["adapter_name_or_path"] == {"origin": "stage toy", "value": ["out/toy"]}
    assert "adapter out/toy" in locked["hashes"]
    assert locked["result"] == {"steps": 2, "metrics": {"rows": 2.0}}


def test_adapters_below_the_one_that_is_trained_stay_where_they_were(toy: Toy) -> None:
    for name in ("one", "two"):
        (toy.folder / name).mkdir()
        (toy.folder / name / "adapter_config.json").write_text("{}")
    chain(toy, "  - stage: toy\n  - stage: toy\n", COMMON + "adapter_name_or_path: one,two\n")
    assert toy.tk("run", "run.yaml").returncode == 0
    assert began(toy, "toy") == "model one two"
    assert began(toy, "toy-2") == "model one out/toy"


@pytest.mark.parametrize("method", ["toy", "whole"])
def test_what_is_made_for_another_role_goes_to_its_key_and_not_to_the_policy(toy: Toy, method: str) -> None:
    stages = "  - stage: toy\n  - stage: judge\n  - stage: learn\n    toy_gain: 2\n"
    chain(toy, stages, COMMON.replace("finetuning_type: toy", f"finetuning_type: {method}"))
    done = toy.tk("run", "run.yaml")
    assert done.returncode == 0, done.stderr
    adapter = method == "toy"
    assert began(toy, "judge") == began(toy, "learn") == ("model out/toy" if adapter else "out/toy")
    judge = (toy.folder / "out/learn/judge.txt").read_text()
    assert judge == ("model out/judge" if adapter else "out/judge")


def test_what_an_entry_sets_itself_is_not_fed(toy: Toy) -> None:
    (toy.folder / "other").mkdir()
    (toy.folder / "other/config.json").write_text('{"model_type": "toy"}')
    chain(toy, "  - stage: toy\n  - stage: judge\n  - {stage: learn, toy_reward: other}\n")
    assert toy.tk("run", "run.yaml").returncode == 0
    assert (toy.folder / "out/learn/judge.txt").read_text() == "other"


def test_everything_wrong_in_any_stage_is_told_at_once_with_its_line_before_the_first_begins(
    toy: Toy,
) -> None:
    chain(
        toy,
        "  - stage: toy\n    toy_stps: 3\n  - stage: tyo\n  - stage: learn\n    toy_steps: many\n    name: a/b\n"
        "  - stage: toy\n    adapter_name_or_path: nowhere\n    output_dir: mine\n",
        COMMON + "toy_gain: 2\nnobodys: 1\n",
    )
    done = toy.tk("run", "run.yaml")
    assert done.returncode == 2
    assert not (toy.folder / "out").exists()
    for expected in (
        "run.yaml:9: unknown key 'nobodys'",
        "run.yaml:12: unknown key 'toy_stps'\n    Did you mean 'toy_steps'?",
        "run.yaml:13: no installed plugin is stage:tyo.",
        "run.yaml:15: toy_steps wants a whole number, not 'many'",
        "run.yaml:16: 'a/b' cannot be the name of a stage",
        "run.yaml:18: There is no adapter folder nowhere.",
        "run.yaml:19: a stage of a chain has no output_dir of its own",
    ):
        assert expected in done.stderr, done.stderr
    assert "toy_gain" not in done.stderr
    assert done.stderr.count("nobodys") == 1
    assert done.stderr.startswith("tk: 7 problems"), done.stderr


def test_a_key_that_is_written_twice_in_one_entry_is_told_with_both_lines(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n    toy_steps: 3\n    toy_steps: 4\n")
    assert "run.yaml:11: 'toy_steps' is set twice; line 10 sets it too" in toy.tk("plan", "run.yaml").stderr


def test_a_common_plugin_needs_a_use_in_one_stage_only(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n  - stage: toy\n    plugins: [loud]\n")
    done = toy.tk("run", "run.yaml", "--plugin", "stage:learn")
    assert "run.yaml" not in done.stderr
    assert "nothing in this run can use 'stage:learn'" in done.stderr
    done = toy.tk("run", "run.yaml")
    assert done.stdout.splitlines()[2:5] == ["stage toy-2, to out/toy-2", "loud saw step", "loud: done"]


def test_overrides_hold_in_every_stage(toy: Toy) -> None:
    chain(toy, "  - {stage: toy, toy_steps: 2}\n  - stage: toy\n")
    done = toy.tk("run", "run.yaml", "toy_steps=5", "output_dir=there")
    assert done.stdout.splitlines()[1::2] == [
        "saved to there/toy after 5 steps",
        "saved to there/toy-2 after 5 steps",
    ]


def test_the_same_file_again_skips_what_is_finished_resumes_and_starts_the_rest(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n  - {stage: toy, toy_mode: killed}\n  - {stage: toy, name: third}\n")
    assert toy.tk("run", "run.yaml").returncode == 130
    refused = toy.tk("run", "run.yaml", "resume_from_checkpoint=true", "toy_mode=plain")
    assert refused.returncode == 2
    assert "out/toy-2 holds a run of something else" in refused.stderr
    again = toy.tk("run", "run.yaml")
    assert again.returncode == 1
    assert again.stderr.startswith("tk: out/toy-2 holds the result of another run")
    resumed = toy.tk("run", "run.yaml", "resume_from_checkpoint=true")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines() == [
        "out/toy is finished after 1 steps; nothing is left to do",
        "stage toy-2, to out/toy-2",
        "saved to out/toy-2 after 1 steps",
        "stage third, to out/third",
        "saved to out/third after 1 steps",
    ]


def test_a_later_result_is_not_mixed_with_a_new_earlier_one(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n  - stage: toy\n")
    assert toy.tk("run", "run.yaml").returncode == 0
    assert toy.tk("run", "run.yaml").stdout.count("nothing is left to do") == 2
    changed = toy.tk("run", "run.yaml", "toy_steps=4")
    assert changed.returncode == 2
    assert "out/toy holds a run of something else" in changed.stderr
    for file in (toy.folder / "out/toy").iterdir():
        file.unlink()
    mixed = toy.tk("run", "run.yaml")
    assert mixed.returncode == 1
    assert mixed.stderr.startswith("tk: out/toy-2 holds a run already, and an earlier stage")
    assert toy.tk("run", "run.yaml", "overwrite_output_dir=true").returncode == 0


def test_the_plan_shows_every_stage(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n  - stage: judge\n  - stage: learn\n")
    done = toy.tk("plan", "run.yaml")
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if line.startswith("stage ")]
    assert heads == ["stage toy, to out/toy", "stage judge, to out/judge", "stage learn, to out/learn"]
    as_json = json.loads(toy.tk("plan", "run.yaml", "--json").stdout)
    assert [stage["name"] for stage in as_json["stages"]] == ["toy", "judge", "learn"]
    why = toy.tk("plan", "run.yaml", "--why", "toy_reward").stdout
    assert "toy_reward = 'out/judge'" in why
    assert "  set to   'out/judge' at stage judge" in why


def test_other_commands_say_that_they_take_one_run(toy: Toy) -> None:
    chain(toy, "  - stage: toy\n")
    done = toy.tk("chat", "run.yaml", "--prompt", "hi")
    assert done.returncode == 2
    assert "one run is wanted, and this is a chain of `stages:`" in done.stderr


def test_the_python_interface_takes_a_list_of_mappings(toy: Toy) -> None:
    code = """
import json, tkernel
settings = json.load(open("settings.json"))
result = tkernel.run(settings)
print(result.steps, result.output_dir)
settings["stages"][1]["toy_stps"] = 3
try:
    tkernel.run(settings)
except tkernel.errors.ConfigError as error:
    print(error)
"""
    lines = [line.split(": ") for line in COMMON.splitlines()]
    stages = [{"stage": "toy"}, {"stage": "toy", "toy_steps": 7}]
    (toy.folder / "settings.json").write_text(json.dumps({**dict(lines), "stages": stages}))
    os.chdir(toy.folder)
    done = toy.site.run(code)
    assert "7 out/toy-2" in done.stdout, done.stderr
    assert "stages[1]: unknown key 'toy_stps'" in done.stdout
    from_file = toy.tk("plan", "settings.json", "toy_stps=1", "output_dir=x")
    assert "command line: unknown key 'toy_stps'" in from_file.stderr

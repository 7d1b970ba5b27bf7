"""Whole runs of the command line with the kernel alone: no torch, all seven hooks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from distributions import Site
from toy import Toy


@pytest.fixture
def toy(site: Site, tmp_path: Path) -> Toy:
    folder = tmp_path / "work"
    folder.mkdir()
    return Toy(site, folder)


def test_a_run_calls_every_hook_and_leaves_result_lock_and_trace(toy: Toy) -> None:
    done = toy.tk("run", "run.yaml", "--plugin", "loud")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["loud saw step", "loud: done", "saved to out after 3 steps"]
    out = toy.folder / "out"
    assert (out / "count.txt").read_text() == "2"
    calls = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert [call["hook"] for call in calls] == [
        "load_dataset",
        "load_model",
        "render_template",
        "adapt",
        "train_stage",
    ]
    assert all(call["ok"] and call["seconds"] >= 0 and call["peak_memory"] > 0 for call in calls)
    assert calls[-1]["extensions"] == ["loud"]
    locked = json.loads((out / "run.lock.json").read_text())
    assert locked["settings"]["toy_steps"] == {"origin": "run.yaml:9", "value": 3}
    assert locked["plan"]["stage"] == "tk-toy==0.1:toy = tk_toy:STAGE"


def test_a_token_is_used_and_never_written_down(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "toy_token=hf_secret").returncode == 0
    assert "hf_secret" not in (toy.folder / "out/run.lock.json").read_text()


@pytest.mark.parametrize("words", [("--toy_steps", "7"), ("--toy_steps=7",), ("toy_steps=7",)])
def test_the_three_spellings_of_an_override(toy: Toy, words: tuple[str, ...]) -> None:
    assert toy.tk("run", "run.yaml", *words).stdout == "saved to out after 7 steps\n"


def test_the_file_may_follow_the_overrides(toy: Toy) -> None:
    assert toy.tk("run", "--toy_steps", "7", "run.yaml").stdout == "saved to out after 7 steps\n"


def test_every_mistake_is_reported_at_once_with_its_line(toy: Toy) -> None:
    (toy.folder / "run.yaml").write_text(
        "model_name_or_path: modle\nstage: toy\nfinetuning_type: toyy\ntemplate: toy\ninfer_backend: toy\n"
        "dataset_dir: .\ndataset: row\ntoy_stps: 3\ntoy_size: 0\noutput_dir: a\noutput_dir: b\ntoy_steps: many\n"
    )
    done = toy.tk("run", "run.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    for expected in (
        "run.yaml:1: modle",
        "run.yaml:3: no installed plugin is adapter:toyy.\n    Did you mean 'toy'?",
        "run.yaml:7: dataset 'row' is neither in dataset_info.json nor a file",
        "run.yaml:8: unknown key 'toy_stps'\n    Did you mean 'toy_steps'?",
        "run.yaml:11: 'output_dir' is set twice; line 10 sets it too",
        "run.yaml:12: toy_steps wants a whole number, not 'many'",
    ):
        assert expected in done.stderr, done.stderr


def test_one_mistake_alone_keeps_its_message(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "stage=tooy")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "tk: command line: no installed plugin is stage:tooy.\n  Did you mean 'toy'?"
    )


def test_nothing_to_run_names_every_key_that_is_missing(toy: Toy) -> None:
    done = toy.tk("run", "stage=toy", "finetuning_type=toy", "template=toy", "infer_backend=toy")
    assert done.returncode == 2
    for key in ("model_name_or_path", "dataset", "output_dir"):
        assert f"{key} is not set" in done.stderr


def test_an_unknown_command_is_an_error_with_a_suggestion(toy: Toy) -> None:
    done = toy.tk("plna")
    assert done.returncode == 2
    assert "No such command 'plna'. Did you mean 'plan'?" in done.stderr


def test_a_folder_that_holds_a_run_is_refused_until_the_user_says_what_is_meant(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml").returncode == 0
    again = toy.tk("run", "run.yaml")
    assert again.returncode == 1
    assert again.stderr.startswith(
        "tk: out holds the result of another run, or other files\n  Choose another"
    )
    assert toy.tk("run", "run.yaml", "overwrite_output_dir=true").returncode == 0


def test_a_run_never_writes_into_the_folder_of_its_model(toy: Toy) -> None:
    words = ("model_name_or_path=model", "output_dir=./model", "overwrite_output_dir=true")
    (toy.folder / "model").mkdir(exist_ok=True)
    (toy.folder / "model/config.json").write_text('{"model_type": "toy"}')
    refused = toy.tk("run", "run.yaml", *words)
    assert refused.returncode == 1
    assert refused.stderr.startswith("tk: output_dir model is the folder of the model\n")
    assert not (toy.folder / "model/run.lock.json").exists()


def test_a_lock_is_replayed_and_refused_when_the_data_has_changed(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "--toy_steps", "5").returncode == 0
    replay = ("run", "out/run.lock.json", "output_dir=again")
    assert toy.tk(*replay).stdout == "saved to again after 5 steps\n"
    (toy.folder / "rows.txt").write_text("one\ntwo\nthree\n")
    refused = toy.tk(*replay, "overwrite_output_dir=true")
    assert refused.returncode == 2
    assert "out/run.lock.json cannot be replayed" in refused.stderr
    (toy.folder / "out" / "run.lock.json").rename(toy.folder / "best.lock.json")
    assert "best.lock.json cannot be replayed" in toy.tk("run", "best.lock.json").stderr
    assert "- hashes dataset rows: sha256:" in refused.stderr


def test_a_replay_has_the_plugins_of_the_command_line(toy: Toy) -> None:
    assert toy.tk("run", "run.yaml", "--plugin", "loud").returncode == 0
    replayed = toy.tk("run", "out/run.lock.json", "output_dir=again")
    assert replayed.stdout == "loud saw step\nloud: done\nsaved to again after 3 steps\n", replayed.stderr


def test_plan_prints_hook_provider_distribution_and_why(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "--plugin", "loud")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "model model (folder, model_type toy)"
    assert "load_model model:toy tk-toy 0.1 matched: model_type is toy" in lines
    assert "train_stage stage:toy tk-toy 0.1 pinned: stage: toy at run.yaml:2" in lines
    assert "* extension:loud tk-toy 0.1 loud (--plugin)" in lines
    as_json = json.loads(toy.tk("plan", "run.yaml", "--json").stdout)
    assert {choice["kind"] for choice in as_json["choices"]} >= {"model", "adapter", "stage", "engine"}


def test_why_says_where_a_value_came_from_and_who_owns_it(toy: Toy) -> None:
    done = toy.tk("plan", "run.yaml", "--why", "toy_steps", "toy_steps=9")
    assert done.stdout.splitlines() == [
        "toy_steps = 9",
        "  owner    stage:toy (tk-toy)",
        "  default  1",
        "  set to   3 at run.yaml:9",
        "  set to   9 at command line",
    ]
    unknown = toy.tk("plan", "run.yaml", "--why", "toy_step")
    assert unknown.returncode == 2
    assert "Did you mean 'toy_steps'?" in unknown.stderr


def test_an_error_of_a_plugin_shows_its_traceback(toy: Toy) -> None:
    done = toy.tk("run", "run.yaml", "toy_mode=fail")
    assert done.returncode == 1
    assert "ValueError: no gradient today" in done.stderr
    calls = (toy.folder / "out" / "trace.jsonl").read_text().splitlines()
    assert json.loads(calls[-1])["error"] == "ValueError: no gradient today"


def test_the_list_of_plugins_shows_what_a_run_makes_active_and_blocks(toy: Toy) -> None:
    words = ("plugins", "list", "--run", "run.yaml", "--plugin", "no:loud")
    states = {line.split(" ")[0]: line for line in toy.tk(*words).stdout.splitlines()}
    assert states["adapter:toy"].split() == ["adapter:toy", "tk-toy", "0.1", "active"]
    assert states["extension:loud"].endswith("blocked: by no:loud (--plugin)")
    assert states["adapter:lora"].endswith("available")


def test_a_name_of_several_kinds_has_no_one_contract(toy: Toy) -> None:
    done = toy.tk("plugins", "test", "toy")
    assert done.returncode == 2
    assert "'toy' is the name of" in done.stderr
    assert "adapter:toy" in done.stderr


def test_planning_and_mistakes_leave_everything_heavy_alone(toy: Toy) -> None:
    code = """
import sys
from tkernel.cli.app import app, guarded
sys.argv = ["tk", *WORDS]
try:
    guarded(app)
except SystemExit:
    pass
heavy = {"torch", "transformers", "datasets", "numpy", "rich", "peft", "trl", "accelerate"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    os.chdir(toy.folder)
    for words in (
        ["--help"],
        ["plugins", "list"],
        ["plan", "run.yaml"],
        ["run", "run.yaml", "toy_stpes=1", "stage=x"],
        ["version"],
    ):
        done = toy.site.run(f"WORDS = {words!r}\n{code}")
        assert done.stdout.splitlines()[-1] == "heavy: []", (words, done.stdout, done.stderr)


def test_the_python_interface_takes_objects_and_callbacks(toy: Toy) -> None:
    code = """
import os, tkernel
events = []
class Quiet:
    name = "quiet"
    @tkernel.hookimpl(wrapper=True)
    def train_stage(self, request):
        events.append("before")
        result = yield
        events.append("after")
        return result
result = tkernel.run("run.yaml", overrides=["toy_steps=4"], plugins=[Quiet()], callbacks=[events.append])
print(result.steps, result.metrics, events)
"""
    os.chdir(toy.folder)
    done = toy.site.run(code)
    assert done.stdout == "4 {'rows': 2.0} ['before', 'step', 'after']\n", done.stderr


def test_data_and_adapters_that_cannot_be_read_are_named_before_anything_is_loaded(toy: Toy) -> None:
    (toy.folder / "empty.jsonl").write_text(" \n")
    (toy.folder / "rows.gz").write_bytes(b"x")
    (toy.folder / "nothing").mkdir()
    words = ("plan", "run.yaml", "dataset=empty.jsonl,rows.gz,nothing", "adapter_name_or_path=adaptr")
    done = toy.tk(*words)
    assert done.returncode == 2
    for expected in (
        "dataset 'empty.jsonl': empty.jsonl has no rows",
        "dataset 'rows.gz': rows.gz: files of this kind are not read; kinds that are: json, jsonl, csv",
        "dataset 'nothing': nothing: no data files in this folder; kinds that are read: json, jsonl",
        "There is no adapter folder adaptr.",
    ):
        assert expected in done.stderr, done.stderr


def test_an_identity_changes_with_any_source_file_of_the_plugin(toy: Toy) -> None:
    code = """
import tkernel.lock, tkernel.planning
plan = tkernel.planning.open_session("run.yaml", plugins=[{PLUGINS}]).plan
for key, identity in tkernel.lock.identities(plan).items():
    print(key, "=", identity)
"""

    def identities(plugins: str = "") -> dict[str, str]:
        done = toy.site.run(code.replace("{PLUGINS}", plugins))
        return dict(line.split(" = ", 1) for line in done.stdout.splitlines())

    os.chdir(toy.folder)
    (toy.folder / "mine.py").write_text(
        "import tkernel\nclass Mine:\n    name = 'mine'\n    @tkernel.hookimpl(wrapper=True)\n"
        "    def load_dataset(self, request):\n        return (yield)\nMINE = Mine()\n"
    )
    first = identities("'./mine.py'")
    assert first["template"].startswith("tk-toy==0.1:toy = tk_toy:TEMPLATE sha256:")
    assert {"extension mine", "dataset rows"} <= first.keys()
    (toy.folder / "beside.py").write_text("x = 1\n")
    second = identities("'./mine.py'")
    assert {key for key in first if first[key] != second[key]} == {"extension mine"}
    made_here = "type('Mine', (__import__('mine').Mine,), {})()"
    assert "extension mine" not in identities(made_here)


def test_one_string_is_one_override_or_plugin(toy: Toy) -> None:
    code = "import tkernel; print(tkernel.run('run.yaml', overrides='toy_steps=4', plugins='loud').steps)"
    os.chdir(toy.folder)
    assert toy.site.run(code).stdout.splitlines()[-1] == "4"

"""Keys of plugins that are not in the run: who owns them, without harm from plugins that misbehave."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from config_plugins import LORA, SFT, options_source

from tkernel import trial
from tkernel.config.bind import bind
from tkernel.config.settle import settle
from tkernel.errors import ConfigError
from tkernel.index import Entry
from tkernel_plugins.keys import unowned
from tkernel_plugins.keys.unowned import options_of

Write = Callable[..., Entry]


def problems(settings: dict[str, object], installed: list[Entry], **values: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        bind(
            settle(settings, [f"{key}={value}" for key, value in values.items()], {}),
            [LORA, SFT],
            installed=installed,
        )
    return [str(problem) for problem in caught.value.problems]


def test_a_key_of_another_adapter_names_it_and_says_how_to_get_it(plugin: Write) -> None:
    freeze = plugin("adapter", "freeze", options_source("freeze_trainable_layers"))
    assert problems({"freeze_trainable_layers": 3}, [freeze], finetuning_type="lora") == [
        "settings: freeze_trainable_layers belongs to adapter:freeze; this run uses adapter:lora "
        "(finetuning_type at command line)\n"
        "    Take the line out, or use finetuning_type: freeze."
    ]
    assert problems({"freeze_trainable_layers": 3}, [freeze]) == [
        "settings: freeze_trainable_layers belongs to adapter:freeze; this run uses adapter:lora "
        "(the default of finetuning_type)\n"
        "    Take the line out, or use finetuning_type: freeze."
    ]


def test_a_key_of_an_extension_says_how_to_activate_it(plugin: Write) -> None:
    galore = plugin("extension", "galore", options_source("galore_rank"), "tk-galore")
    assert problems({"galore_rank": 16}, [galore]) == [
        "settings: galore_rank belongs to extension:galore (tk-galore); this run uses no extension\n"
        "    Take the line out, or use plugins: [galore]."
    ]


def test_a_typo_of_another_plugins_key_is_recognised(plugin: Write) -> None:
    freeze = plugin("adapter", "freeze", options_source("freeze_trainable_layers"))
    assert problems({"freze_trainable_layers": 3}, [freeze]) == [
        "settings: unknown key 'freze_trainable_layers'\n"
        "    Did you mean 'freeze_trainable_layers' of adapter:freeze, which this run does not use?"
    ]


def test_keys_of_a_kind_without_a_provider_are_not_to_blame(plugin: Write) -> None:
    engine = plugin("engine", "mine", options_source("temperature"))
    assert bind(settle({"temperature": 1}, (), {}), [LORA, SFT], installed=[engine]).notes == ()


def test_keys_of_datasets_that_were_not_found_are_not_to_blame(plugin: Write) -> None:
    alpaca = plugin("dataset", "alpaca", options_source("max_samples"))
    assert (
        bind(settle({"max_samples": 1, "dataset": "x"}, (), {}), [LORA, SFT], installed=[alpaca]).notes == ()
    )
    assert "this run uses no dataset" in problems({"max_samples": 1}, [alpaca])[0]


def test_an_object_with_several_names_is_named_once(plugin: Write) -> None:
    alpaca = plugin("dataset", "alpaca", options_source("max_samples"))
    entries = [replace(alpaca, name="instruction"), alpaca]
    assert [entry.name for entry, _ in options_of(entries)] == ["alpaca"]


def test_plugins_that_exit_hang_or_break_hide_no_other_plugin(
    plugin: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUGIN_PID", str(tmp_path / "pid"))
    entries = [
        plugin("stage", "first", options_source("one"), "tk-a"),
        plugin("stage", "exits", "import os; os._exit(0)", "tk-b"),
        plugin("stage", "broken", "raise RuntimeError('x')", "tk-c"),
        plugin("stage", "leaves", "raise SystemExit(3)", "tk-d"),
        plugin("stage", "kills", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "tk-e"),
        plugin(
            "stage", "loud", "print('[]'); import os; os.write(1, b'[]\\n')\n" + options_source("two"), "tk-f"
        ),
        plugin(
            "stage",
            "threads",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
            + options_source("three"),
            "tk-g",
        ),
        Entry("stage", "absent", "no_such_module:PLUGIN", "tk-h", "1"),
    ]
    assert [(entry.name, names) for entry, names in options_of(entries)] == [
        ("first", ("one",)),
        ("loud", ("two",)),
        ("threads", ("three",)),
    ]
    assert not any(name.startswith("plugin_stage") for name in sys.modules)


def test_a_plugin_that_hangs_is_left_out_and_ended(
    plugin: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    hanging = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    entries = [
        plugin("stage", "hangs", hanging, "tk-a"),
        plugin("stage", "works", options_source("one"), "tk-b"),
    ]
    assert [entry.name for entry, _ in options_of(entries)] == ["works"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_built_in_plugins_are_asked_first(plugin: Write) -> None:
    entries = [
        plugin("stage", "a", options_source("same"), "another"),
        plugin("stage", "z", options_source("same")),
    ]
    assert [entry.name for entry, _ in options_of(entries)] == ["z", "a"]


def test_the_childs_program_imports_nothing_but_the_standard_library() -> None:
    text = Path(trial.__file__).read_text()
    imported = [line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.skipif("TK_SHARED" not in os.environ, reason="needs the reference files (TK_SHARED)")
def test_the_table_of_llamafactory_keys_agrees_with_the_measured_one() -> None:
    measured = json.loads(Path(os.environ["TK_SHARED"], "reference", "args.json").read_text())
    table = json.loads(Path(unowned.__file__).with_name("llamafactory.json").read_text())
    for row in measured:
        if row["name"] != "seed" and not row["name"].startswith("_") and row["default"] != "<required>":
            assert table[row["name"]]["default"] == row["default"], row["name"]

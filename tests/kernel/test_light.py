"""Planning is light: in a fresh process nothing heavy is imported, and nothing that nobody asked for."""

from __future__ import annotations

from distributions import Site

PLAN = """
import sys
from tkernel.activate import Loader, activate
from tkernel.choose import choose
from tkernel.pins import Pins, Wanted
from tkernel.config.settle import Settings
from tkernel_plugins.commands.plugin_states import plugin_states
from tkernel.errors import TkError
from tkernel.facts import read_facts
from tkernel.index import read_index
import tkernel

try:
    facts = read_facts("org/no-such-model")
except TkError as error:
    print(error)
from tkernel.types.facts import ModelFacts
facts = ModelFacts("m", "folder", "/m", "llama")
index, loader = read_index(), Loader()
pins = Pins(tuple(Wanted(name, "--plugin") for name in NAMES))
try:
    plan, errors = choose(Settings([]), (), facts, index, pins, loader)
    for error in errors:
        raise error
    active = activate(plan, index, loader)
    plugin_states(index, plan, pins)
except TkError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
heavy = ("torch", "transformers", "datasets", "numpy", "rich", "peft", "trl", "pydantic", "huggingface_hub")
print("heavy:", [name for name in heavy if name in sys.modules])
print("plan:", [(choice.kind, choice.name) for choice in plan.choices])
"""


def plan(site: Site, *names: str) -> tuple[int, str]:
    done = site.run(f"NAMES = {names!r}\n{PLAN}")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_index_choose_and_activate_import_nothing_heavy(site: Site) -> None:
    site.built_ins()
    code, output = plan(site)
    assert code == 0
    assert "org/no-such-model is neither a local path nor in the cache" in output
    assert "heavy: []" in output
    assert "('model', 'llama'), ('adapter', 'lora'), ('template', 'chatml')" in output


def test_a_module_that_ends_the_process_harms_nobody_who_did_not_ask_for_it(site: Site) -> None:
    site.built_ins()
    site.distribution(
        "tk-exits", {"adapter": {"lora.exits": "A"}, "engine": {"e": "E"}}, "import os; os._exit(0)"
    )
    assert plan(site)[0] == 0


def test_who_asks_for_a_module_that_ends_the_process_gets_a_named_error(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-exits", {"adapter": {"lora.exits": "A"}}, "import os; os._exit(0)")
    code, output = plan(site, "exits")
    assert code == 3
    assert (
        "BrokenPlugin adapter:lora.exits of tk-exits 0.1 (tk_exits:A) "
        "ends the process when it is imported (exit status 0)." in output
    )


def test_a_plugin_broken_at_import_harms_nobody_who_did_not_ask_for_it(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-bad", {"engine": {"bad": "E"}}, "1 / 0")
    assert plan(site)[0] == 0
    code, output = plan(site, "bad")
    assert code == 3
    assert "BrokenPlugin engine:bad of tk-bad 0.1 (tk_bad:E) fails on import:" in output
    assert "ZeroDivisionError: division by zero" in output

"""A plugin that was asked for and is wrong ends in its own error; one that nobody asked for is not imported."""

from __future__ import annotations

import sys

import pytest
from distributions import Site

from tkernel.activate import Loader, activate
from tkernel.errors import (
    BrokenPlugin,
    ImportedTooLate,
    IncompatibleApi,
    InvalidPlugin,
    MissingRequirement,
    PluginError,
)
from tkernel.index import Entry
from tkernel.types.plan import Choice, Plan

GOOD = """
from tkernel import hookimpl
class Adapter:
    name = "x"
    @hookimpl
    def adapt(self, bundle, request):
        return bundle
X = Adapter()
"""


def entry(site: Site, name: str = "x") -> Entry:
    return next(e for e in site.index.entries if e.name == name)


def error_of(site: Site, name: str = "x") -> PluginError:
    with pytest.raises(PluginError) as caught:
        Loader()(entry(site, name))
    return caught.value


def test_a_good_plugin_is_loaded_once(site: Site) -> None:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, GOOD, requires=("tkernel>=1,<2", "pluggy"))
    loader = Loader()
    assert loader(entry(site)) is loader(entry(site))


# -- from metadata, before any import ----------------------------------------------------------------


def test_another_api_is_found_before_import(site: Site) -> None:
    name = site.distribution(
        "tk-x", {"adapter": {"x": "X"}}, "raise SystemExit", requires=("nope", "tkernel>=2")
    )
    error = error_of(site)
    assert isinstance(error, IncompatibleApi)
    assert str(error) == (
        "adapter:x of tk-x 0.1 needs tkernel>=2; this is tkernel 1.0.0.\n  Run: pip install --upgrade 'tkernel>=2' tk-x"
    )
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        (
            "no-such-thing>=3",
            "needs no-such-thing>=3, which is not installed.\n  Run: pip install 'no-such-thing>=3'",
        ),
        ("pluggy>=900", f"needs pluggy>=900, and {__import__('pluggy').__version__} is installed."),
        ('gone; python_version > "3"', "needs gone, which is not installed."),
        (
            'gone; extra == "gpu"',
            "needs gone, which is not installed.\n  Run: pip install 'tk-x[gpu]'",
        ),
    ],
)
def test_a_missing_requirement_is_found_before_import(site: Site, requirement: str, message: str) -> None:
    text = "[tkernel.adapter]\nx = tk_x:X [gpu]\n"
    name = site.distribution("tk-x", text, "raise SystemExit", requires=(requirement,))
    error = error_of(site)
    assert isinstance(error, MissingRequirement)
    assert str(error).startswith(f"adapter:x of tk-x 0.1 {message}")
    assert name not in sys.modules


def test_requirements_of_other_extras_and_platforms_do_not_count(site: Site) -> None:
    requires = ('gone; extra == "test"', 'gone; sys_platform == "amiga"')
    site.distribution("tk-x", {"adapter": {"x": "X"}}, GOOD, requires=requires)
    assert Loader()(entry(site)).name == "x"


def test_the_requirements_of_all_are_checked_before_the_import_of_any(site: Site) -> None:
    first = site.distribution("tk-a", {"adapter": {"a": "X"}}, GOOD)
    site.distribution("tk-b", {"adapter": {"b": "X"}}, GOOD, requires=("gone",))
    with pytest.raises(MissingRequirement):
        Loader().load_all(site.index.entries)
    assert first not in sys.modules


def test_a_requirement_that_cannot_be_read_breaks_its_plugin(site: Site) -> None:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, GOOD, requires=("a b c",))
    assert isinstance(error_of(site), BrokenPlugin)


# -- import ------------------------------------------------------------------------------------------


def test_a_module_that_raises_is_told_with_its_own_traceback(site: Site) -> None:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, "value = 1\nraise RuntimeError('boom')\n")
    error = error_of(site)
    assert isinstance(error, BrokenPlugin)
    assert str(error) == (
        "adapter:x of tk-x 0.1 (tk_x:X) fails on import:\n"
        "    Traceback (most recent call last):\n"
        f'      File "{site.folder}/tk_x.py", line 2, in <module>\n'
        "        raise RuntimeError('boom')\n"
        "    RuntimeError: boom\n"
        "  Upgrade it: pip install --upgrade tk-x; or block it: --plugin no:tk-x"
    )
    assert isinstance(error.__cause__, RuntimeError)


@pytest.mark.parametrize("statement", ["import no_such_module", "raise SystemExit(0)", "def broken(:"])
def test_whatever_a_module_raises_is_a_broken_plugin(site: Site, statement: str) -> None:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, statement)
    assert isinstance(error_of(site), BrokenPlugin)


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_a_module_that_ends_the_process_is_named(site: Site, statement: str, status: str) -> None:
    site.distribution("tk-good", {"adapter": {"good": "X"}}, GOOD)
    site.distribution(
        "tk-x", {"adapter": {"x": "X"}}, f"import sys; print('farewell', file=sys.stderr)\n{statement}\n"
    )
    with pytest.raises(BrokenPlugin) as caught:
        Loader().load_all(site.index.entries)
    assert str(caught.value) == (
        f"adapter:x of tk-x 0.1 (tk_x:X) ends the process when it is imported ({status}).\n"
        "    farewell\n"
        "  Upgrade it: pip install --upgrade tk-x; or block it: --plugin no:tk-x"
    )


def test_what_a_module_prints_on_import_does_not_disturb_the_trial(site: Site) -> None:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, "print('survived')\nprint('hello' * 10_000)\n" + GOOD)
    assert Loader()(entry(site)).name == "x"


def test_an_object_that_is_not_there_is_a_broken_plugin(site: Site) -> None:
    site.distribution("tk-x", {"adapter": {"x": "ADAPTR"}}, GOOD + "ADAPTER = X\n")
    assert str(error_of(site)) == "adapter:x of tk-x 0.1: tk_x has no 'ADAPTR'.\n  Did you mean 'ADAPTER'?"


# -- the object --------------------------------------------------------------------------------------

HEAD = "from dataclasses import dataclass\nfrom tkernel import hookimpl\n"

SHAPES = {
    "misspelt hook": (
        "adapter",
        "class P:\n    name = 'x'\n    @hookimpl\n    def adpt(self, bundle, request): ...\nX = P()\n",
        "adapter:x of tk-x 0.1 implements 'adpt', which is no hook.\n  Did you mean 'adapt'?",
    ),
    "unknown argument": (
        "adapter",
        "class P:\n    name = 'x'\n    @hookimpl\n    def adapt(self, bundle, requst): ...\nX = P()\n",
        "adapter:x of tk-x 0.1: adapt takes no argument 'requst'; its arguments are bundle, request.\n"
        "  Did you mean 'request'?",
    ),
    "another kind's hook": (
        "adapter",
        "class P:\n    name = 'x'\n    @hookimpl\n    def train_stage(self, request): ...\nX = P()\n",
        "adapter:x of tk-x 0.1 implements train_stage; a plugin of kind adapter answers adapt.\n"
        "  Register it in the group `tkernel.stage`.",
    ),
    "two kinds' hooks": (
        "adapter",
        "class P:\n    name = 'x'\n    @hookimpl\n    def adapt(self, bundle): ...\n"
        "    @hookimpl\n    def train_stage(self, request): ...\nX = P()\n",
        "adapter:x of tk-x 0.1 implements train_stage; a plugin of kind adapter answers adapt.\n"
        "  Register it in the group `tkernel.stage`.",
    ),
    "unmarked method": (
        "adapter",
        "class P:\n    name = 'x'\n    def adapt(self, bundle, request): ...\nX = P()\n",
        "adapter:x of tk-x 0.1 implements no hook; a plugin of kind adapter answers adapt.\n"
        "  Put @hookimpl on its method adapt.",
    ),
    "no plugin at all": (
        "adapter",
        "X = 3\n",
        "adapter:x of tk-x 0.1 implements no hook; a plugin of kind adapter answers adapt.\n  Add a method adapt.",
    ),
    "a class": (
        "adapter",
        "class X:\n    name = 'x'\n    @hookimpl\n    def adapt(self, bundle): ...\n",
        "adapter:x of tk-x 0.1 is the class X; a plugin is an instance.\n"
        "  Write PLUGIN = X() and name that: `tk_x:PLUGIN`.",
    ),
    "a provider that wraps": (
        "adapter",
        "class P:\n    name = 'x'\n    @hookimpl(wrapper=True)\n    def adapt(self, bundle):\n        return (yield)\nX = P()\n",
        "adapter:x of tk-x 0.1 wraps adapt; a plugin of kind adapter answers adapt.\n"
        "  Take away `wrapper=True`, or register it in the group `tkernel.extension`.",
    ),
    "no name": (
        "adapter",
        "class P:\n    @hookimpl\n    def adapt(self, bundle): ...\nX = P()\n",
        'adapter:x of tk-x 0.1 has no `name`.\n  Add the attribute: name = "x"',
    ),
    "options that are no dataclass": (
        "adapter",
        "class P:\n    name = 'x'\n    class Options: ...\n    @hookimpl\n    def adapt(self, bundle): ...\nX = P()\n",
        "adapter:x of tk-x 0.1: `Options` is no dataclass.\n  Put @dataclass(frozen=True) on it.",
    ),
    "options that can change": (
        "adapter",
        "@dataclass\nclass O: ...\nclass P:\n    name, Options = 'x', O\n    @hookimpl\n    def adapt(self, bundle): ...\nX = P()\n",
        "adapter:x of tk-x 0.1: `Options` can be changed after binding.\n  Write @dataclass(frozen=True).",
    ),
    "an extension that answers": (
        "extension",
        "class P:\n    name = 'x'\n    @hookimpl\n    def adapt(self, bundle): ...\nX = P()\n",
        "extension:x of tk-x 0.1 answers adapt; an extension wraps hooks.\n"
        "  Write @hookimpl(wrapper=True), and let the method yield once.",
    ),
    "an extension without yield": (
        "extension",
        "class P:\n    name = 'x'\n    @hookimpl(wrapper=True)\n    def adapt(self, bundle): ...\nX = P()\n",
        "extension:x of tk-x 0.1: its adapt does not yield, so that the provider would never be called.\n"
        "  Write `result = yield` and end with `return result`.",
    ),
    "an extension that pushes in": (
        "extension",
        "class P:\n    name = 'x'\n    @hookimpl(wrapper=True, tryfirst=True)\n    def adapt(self):\n        return (yield)\nX = P()\n",
        "extension:x of tk-x 0.1: its adapt asks for a place among the wrappers.\n"
        "  Take away tryfirst and trylast: wrappers nest in the order of `plugins:`.",
    ),
    "an extension of nothing": (
        "extension",
        "class P:\n    name = 'x'\nX = P()\n",
        "extension:x of tk-x 0.1 wraps no hook.\n  Put @hookimpl(wrapper=True) on one of load_model, adapt, "
        "load_dataset, render_template, process_media, train_stage, generate.",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_an_object_of_the_wrong_shape_is_told_what_to_change(site: Site, case: str) -> None:
    kind, module, message = SHAPES[case]
    site.distribution("tk-x", {kind: {"x": "X"}}, HEAD + module)
    error = error_of(site)
    assert isinstance(error, InvalidPlugin)
    assert str(error) == message


def test_properties_of_a_plugin_are_not_evaluated(site: Site) -> None:
    module = GOOD.replace("X = A", "    @property\n    def model(self): raise SystemExit\nX = A")
    site.distribution("tk-x", {"adapter": {"x": "X"}}, module)
    assert Loader()(entry(site)).name == "x"


# -- import_first ------------------------------------------------------------------------------------

FIRST = GOOD.replace('name = "x"', 'name = "x"; import_first = ("tk_early",); import_before = ("tk_late",)')


def first_plan(site: Site) -> Plan:
    site.distribution("tk-x", {"adapter": {"x": "X"}}, FIRST)
    (site.folder / "tk_early.py").write_text("early = True\n")
    (site.folder / "tk_late.py").write_text("")
    return Plan((Choice("adapt", "adapter", "x", "tk-x", "0.1", "tk_x:X", "pinned", ""),))


def test_import_first_is_imported_when_the_run_begins_not_when_it_is_planned(site: Site) -> None:
    active = activate(first_plan(site), site.index)
    assert "tk_early" not in sys.modules
    active.begin()
    assert "tk_early" in sys.modules


def test_import_first_after_what_it_must_precede_is_too_late(site: Site) -> None:
    plan = first_plan(site)
    __import__("tk_late")
    with pytest.raises(ImportedTooLate) as caught:
        activate(plan, site.index)
    assert str(caught.value) == (
        "adapter:x of tk-x 0.1 must import tk_early before tk_late, which is loaded already.\n"
        "  Start a new process (in a notebook: restart the kernel) and import tk_early first."
    )


def test_import_first_that_came_early_enough_is_fine(site: Site) -> None:
    plan = first_plan(site)
    __import__("tk_early")
    __import__("tk_late")
    activate(plan, site.index).begin()


def test_import_first_that_fails_names_plugin_and_module(site: Site) -> None:
    plan = first_plan(site)
    (site.folder / "tk_early.py").write_text("1 / 0")
    with pytest.raises(
        BrokenPlugin, match=r"adapter:x of tk-x 0.1 needs tk_early, which fails on import: ZeroDiv"
    ):
        activate(plan, site.index).begin()

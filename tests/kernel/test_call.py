"""One provider answers, extensions wrap it in the order of `plugins:`, and the kernel checks in between."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributions import Site, written

from tkernel.activate import Active, Loader, activate
from tkernel.choose import choose
from tkernel.errors import ExtensionMisbehaved, InvalidPlugin, PluginError, ProviderMisbehaved, SlotError
from tkernel.pins import Pins, Wanted
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import AdapterRequest, ModelRequest, StageRequest

FACTS = ModelFacts("m", "folder", "/m", "llama", chat_template="x")

EXTENSIONS = """
from types import SimpleNamespace
from tkernel import hookimpl

SEEN = []

class Watch:
    def __init__(self, name):
        self.name = name
    @hookimpl(wrapper=True)
    def train_stage(self, request):
        SEEN.append(f"{self.name} before")
        result = yield
        SEEN.append(f"{self.name} after")
        return result

class Swallow:
    name = "swallow"
    @hookimpl(wrapper=True)
    def adapt(self, bundle, request):
        try:
            return (yield)
        except BaseException:
            return bundle

class Forget:
    name = "forget"
    @hookimpl(wrapper=True)
    def load_model(self, request):
        yield

class Twice:
    name = "twice"
    @hookimpl(wrapper=True)
    def load_model(self, request):
        yield
        yield

class Writer:
    def __init__(self, name, slot):
        self.name, self.slot = name, slot
    @hookimpl(wrapper=True)
    def train_stage(self, request):
        request.slots.put(self.slot, self.name, by=self.name)
        return (yield)

class Raise:
    name = "raise"
    @hookimpl(wrapper=True)
    def adapt(self, request):
        yield
        raise OSError("disk full")

OUTER, INNER = Watch("outer"), Watch("inner")
SWALLOW, FORGET, TWICE, RAISE = Swallow(), Forget(), Twice(), Raise()
ONE, TWO = Writer("one", "optimizer"), Writer("two", "optimizer")
CALL1, CALL2 = Writer("call1", "callbacks"), Writer("call2", "callbacks")
"""
NAMES = ("outer", "inner", "swallow", "forget", "twice", "raise", "one", "two", "call1", "call2")


def active_of(site: Site, *extensions: str, adapter: str | None = None) -> Active:
    site.built_ins()
    site.distribution("tk-e", {"extension": {name: name.upper() for name in NAMES}}, EXTENSIONS)
    loader, index = Loader(), site.index
    pins = Pins(tuple(Wanted(name, "--plugin") for name in extensions))
    wanted = {"finetuning_type": Wanted(adapter, "train.yaml:3")} if adapter else {}
    plan, errors = choose(written(**wanted), (), FACTS, index, pins, loader)
    assert errors == []
    return activate(plan, index, loader)


def call(active: Active, kind: str, request: Any, bundle: Any = None) -> Any:
    choice = active.plan.chosen(kind)
    assert choice is not None
    return active.call(choice, request, bundle)


def stage_request() -> StageRequest:
    return StageRequest(bundle=None, renderer=None)  # type: ignore[arg-type]


BUNDLE = SimpleNamespace(module=1, tokenizer=2, facts=3, replace=4)


def test_the_provider_answers_and_the_call_is_traced(site: Site, tmp_path: Path) -> None:
    active = active_of(site, "outer")
    active.trace.write_to(tmp_path / "trace.jsonl")
    assert call(active, "model", ModelRequest(FACTS)).facts is FACTS
    assert call(active, "adapter", AdapterRequest(), BUNDLE) is BUNDLE
    call(active, "stage", stage_request())
    rows = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [(row["hook"], row["provider"], row["extensions"]) for row in rows] == [
        ("load_model", "model:llama", []),
        ("adapt", "adapter:lora", []),
        ("train_stage", "stage:sft", ["outer"]),
    ]


@pytest.mark.parametrize("order", [("outer", "inner"), ("inner", "outer")])
def test_the_first_of_plugins_is_the_outermost_wrapper(site: Site, order: tuple[str, str]) -> None:
    active = active_of(site, *order)
    call(active, "stage", stage_request())
    import tk_e  # type: ignore[import-not-found]

    first, second = order
    assert [f"{first} before", f"{second} before", f"{second} after", f"{first} after"] == tk_e.SEEN


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "adapter:bad of tk-bad 0.1 returned None from adapt."),
        (
            "[1]",
            "adapter:bad of tk-bad 0.1 returned a list from adapt, which has no module, tokenizer, facts, replace.",
        ),
    ],
)
def test_a_provider_that_returns_the_wrong_thing_is_stopped_before_any_extension_sees_it(
    site: Site, returned: str, message: str
) -> None:
    site.distribution(
        "tk-bad",
        {"adapter": {"bad": "BAD"}},
        f"""
        from tkernel import hookimpl
        class Bad:
            name = "bad"
            @hookimpl
            def adapt(self, bundle, request):
                return {returned}
        BAD = Bad()
        """,
    )
    active = active_of(site, "raise", adapter="bad")
    with pytest.raises(ProviderMisbehaved) as caught:
        call(active, "adapter", AdapterRequest(), BUNDLE)
    assert (
        str(caught.value) == f"{message}\n  See the docstring of tkernel.hookspecs.adapt for what it returns."
    )


def test_an_extension_that_swallows_an_exception_is_named(site: Site) -> None:
    active = active_of(site, "swallow", "raise")
    with pytest.raises(ExtensionMisbehaved) as caught:
        call(active, "adapter", AdapterRequest(), BUNDLE)
    assert str(caught.value) == (
        "extension:swallow of tk-e 0.1 swallowed an exception of adapt: OSError: disk full\n"
        "  Let the exception go on: an extension may look at it, not stop it."
    )
    assert isinstance(caught.value.__cause__, OSError)


def test_an_extension_cannot_hide_that_a_provider_misbehaved(site: Site) -> None:
    site.distribution(
        "tk-bad",
        {"adapter": {"bad": "BAD"}},
        """
        from tkernel import hookimpl
        class Bad:
            name = "bad"
            @hookimpl
            def adapt(self, bundle, request): ...
        BAD = Bad()
        """,
    )
    with pytest.raises(ExtensionMisbehaved, match=r"swallowed an exception of adapt: ProviderMisbehaved"):
        call(active_of(site, "swallow", adapter="bad"), "adapter", AdapterRequest(), BUNDLE)


def test_an_extension_that_replaces_the_result_by_another_type_is_named(site: Site) -> None:
    with pytest.raises(ExtensionMisbehaved) as caught:
        call(active_of(site, "forget"), "model", ModelRequest(FACTS))
    assert str(caught.value) == (
        "extension:forget of tk-e 0.1 made a NoneType of the SimpleNamespace that load_model returned.\n"
        "  End the wrapper with `return result`, of the same type."
    )


def test_an_extension_that_yields_twice_is_an_error(site: Site) -> None:
    with pytest.raises(ExtensionMisbehaved, match=r"'load_model' .*tk_e\.py:\d+ has second yield"):
        call(active_of(site, "twice"), "model", ModelRequest(FACTS))


def test_an_exception_of_an_extension_goes_on(site: Site) -> None:
    with pytest.raises(OSError, match="disk full"):
        call(active_of(site, "raise"), "adapter", AdapterRequest(), BUNDLE)


def test_two_writers_of_one_slot_are_both_named(site: Site) -> None:
    with pytest.raises(SlotError) as caught:
        call(active_of(site, "one", "two"), "stage", stage_request())
    assert str(caught.value) == (
        "slot 'optimizer' of train_stage was written by 'one' and again by 'two'; it takes one value\n"
        "  Leave one of the two out: one or two."
    )


def test_a_slot_that_nobody_reads_is_an_error(site: Site) -> None:
    with pytest.raises(SlotError) as caught:
        call(active_of(site, "one"), "stage", stage_request())
    assert str(caught.value) == (
        "stage:sft of tkernel 1.0.0 did not read the slot 'optimizer' of train_stage, which one filled.\n"
        "  Leave one out, or choose another stage."
    )


def test_an_accumulating_slot_takes_several_in_the_order_of_plugins(site: Site) -> None:
    result = call(active_of(site, "call1", "call2"), "stage", stage_request())
    assert result.bundle == ["call1", "call2"]


def test_an_extension_reads_its_own_bound_options(site: Site) -> None:
    active = active_of(site, "outer")
    active.bind(active.plan.extensions[0], {"every": 10})
    request = stage_request()
    call(active, "stage", request)
    assert request.slots.options("outer") == {"every": 10}
    assert request.slots.options("inner") is None


def test_only_the_chosen_provider_is_called_though_several_are_active(site: Site) -> None:
    site.built_ins()
    loader, index = Loader(), site.index
    entries = [DatasetEntry(n, n, formatting=f) for n, f in (("a", "alpaca"), ("b", "instruction"))]
    plan, _ = choose(written(), entries, FACTS, index, Pins(), loader)
    active = activate(plan, index, loader)
    first, second = plan.chosen("dataset", "a"), plan.chosen("dataset", "b")
    assert first is not None
    assert second is not None
    assert active.object(first) is active.object(second)


def test_a_variant_has_the_options_of_what_it_varies(site: Site) -> None:
    site.distribution(
        "tk-fast",
        {"adapter": {"lora.fast": "FAST"}},
        """
        from tkernel import hookimpl
        class Fast:
            name = "lora"
            @hookimpl
            def adapt(self, bundle, request):
                return bundle
        FAST = Fast()
        """,
    )
    active = active_of(site, "fast")
    choice = active.plan.chosen("adapter")
    assert choice is not None
    options = active.options_class(choice)
    assert (choice.name, options and options.__name__) == ("lora.fast", "LoraOptions")
    assert call(active, "adapter", AdapterRequest(), BUNDLE) is BUNDLE


def test_a_variant_with_options_of_its_own_is_invalid(site: Site) -> None:
    site.distribution(
        "tk-fast",
        {"adapter": {"lora.fast": "FAST"}},
        """
        from dataclasses import dataclass
        from tkernel import hookimpl
        @dataclass(frozen=True)
        class Options: ...
        class Fast:
            name = "lora"
            Options = Options
            @hookimpl
            def adapt(self, bundle, request): ...
        FAST = Fast()
        """,
    )
    with pytest.raises(InvalidPlugin, match=r"declares `Options`; a variant takes those of adapter:lora"):
        active_of(site, "fast")


def test_plugins_that_are_equal_or_unhashable_dataclasses_are_registered(site: Site) -> None:
    site.distribution(
        "tk-data",
        {"adapter": {"data": "DATA"}},
        """
        from dataclasses import dataclass, field
        from tkernel import hookimpl
        @dataclass
        class Data:
            name: str = "data"
            table: dict = field(default_factory=dict)
            @hookimpl
            def adapt(self, bundle, request):
                return bundle
        DATA = Data()
        """,
    )
    assert call(active_of(site, adapter="data"), "adapter", AdapterRequest(), BUNDLE) is BUNDLE


def test_every_error_of_a_plugin_has_the_exit_code_of_plugins() -> None:
    assert {error.exit_code for error in (ExtensionMisbehaved("x"), SlotError("x"), PluginError("x"))} == {3}

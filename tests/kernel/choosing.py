"""Plans over a site of distributions. Not a test; what the tests of choosing share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distributions import Site, written

from tkernel.activate import Loader
from tkernel.choose import choose
from tkernel.doors import open_doors
from tkernel.errors import TkError
from tkernel.index import Entry
from tkernel.pins import Pins, Wanted
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Plan

LLAMA = ModelFacts("m", "folder", "/m", "llama", chat_template="{{ messages }}")


def pins(*names: str, uses: tuple[str, ...] = ()) -> Pins:
    return Pins(
        tuple(Wanted(name, "train.yaml:9") for name in names),
        tuple(Wanted(use, "train.yaml:8") for use in uses),
    )


def static(site: Site) -> Callable[[Entry], Any]:
    """Loads what has a module; plugins that a test only names in metadata have no static facts."""
    loader = Loader()
    return lambda e: loader(e) if (site.folder / f"{e.target.partition(':')[0]}.py").exists() else None


def plan_of(
    site: Site,
    *names: str,
    facts: ModelFacts | None = LLAMA,
    uses: tuple[str, ...] = (),
    datasets: Sequence[DatasetEntry] = (),
    **keys: Wanted,
) -> Plan:
    index = open_doors(names, site.index)
    plan, errors = choose(written(**keys), datasets, facts, index, pins(*names, uses=uses), static(site))
    assert errors == []
    return plan


def errors_of(
    site: Site,
    *names: str,
    facts: ModelFacts | None = LLAMA,
    uses: tuple[str, ...] = (),
    datasets: Sequence[DatasetEntry] = (),
    **keys: Wanted,
) -> list[TkError]:
    return choose(written(**keys), datasets, facts, site.index, pins(*names, uses=uses), static(site))[1]


def chosen(plan: Plan, kind: str, subject: str | None = None) -> tuple[str, str, str, str]:
    choice = plan.chosen(kind, subject)
    assert choice is not None
    return choice.name, choice.distribution, choice.how, choice.reason

"""The suite of each named template."""

from __future__ import annotations

import functools

from tkernel.index import read_index
from tkernel.testing import TemplateContract
from tkernel.testing.contract import suite_of

NAMED = [e.name for e in read_index().entries if e.kind == "template" and e.distribution == "tkernel"]
NAMED.remove("auto")


@functools.cache
def suite(name: str) -> type[TemplateContract]:
    """The contract of a template, as `tk plugins test` runs it."""
    found = suite_of("template", name)
    assert issubclass(found, TemplateContract)
    return found

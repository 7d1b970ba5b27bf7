"""Every built-in template keeps the contract."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import Any

import pytest
from template_suites import NAMED, suite

from tkernel.index import read_index
from tkernel.testing import TemplateContract
from tkernel.testing.contract import HEAVY

IMPORTS = "test_importing_the_plugin_imports_nothing_heavy"
CHECKS = [name for name in dir(TemplateContract) if name.startswith("test_") and name != IMPORTS]

UNENDED = ("deepseekcoder", "empty", "granite3")
"""LLaMA-Factory names no stop word for these: their replies end with the own token of the model's tokenizer,
written as text, and those of `empty` with nothing."""


class TestAuto(TemplateContract):
    plugin = "auto"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMED)
def test_named_templates_keep_the_contract(name: str, check: str) -> None:
    getattr(made(name), check)()


@functools.cache
def made(name: str) -> TemplateContract:
    return suite(name)()


@pytest.mark.parametrize("name", NAMED)
def test_replies_end_with_a_stop_word(name: str) -> None:
    contract = made(name)
    renderer = contract.renderer()
    ends = re.sub(r"\\(.)", r"\1", str(contract.terminator))
    assert any(word in ends for word in renderer.stop_words) == (name not in UNENDED)


def test_importing_templates_imports_nothing_heavy() -> None:
    modules = sorted({e.target.partition(":")[0] for e in read_index().entries if e.kind == "template"})
    script = (
        f"import sys; sys.path[:] = {sys.path!r}; import {', '.join(modules)}; "
        f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    child: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout.split() == []

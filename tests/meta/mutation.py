"""Runs contract suites on deliberately wrong plugins. Not a test; what the tests of mutants share."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tkernel.testing.contract import Contract


@dataclass(frozen=True)
class Mutant:
    """A wrong plugin and the checks that notice: `check`, for which it was made, and `also`, which
    the same mistake breaks by nature. `suite` are attributes of the suite."""

    check: str
    plugin: Any
    also: frozenset[str] = frozenset()
    suite: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.check.removeprefix("test_")


class Mutants:
    """The mutants of one suite, in the order in which they are written down.

    `suite` are the attributes that let the right plugin pass.
    """

    def __init__(self, contract: type[Contract], **suite: Any) -> None:
        self.contract = contract
        self.suite = suite
        self.all: list[Mutant] = []

    def add(self, plugin: Any, check: str, *also: str, **suite: Any) -> None:
        """Register a wrong plugin."""
        self.all.append(Mutant(check, plugin, frozenset(also), suite))

    def breaks(self, check: str, *also: str, **suite: Any) -> Callable[[Any], Any]:
        """Decorator of a class whose instance is a wrong plugin."""

        def register(cls: Any) -> Any:
            self.add(cls(), check, *also, **suite)
            return cls

        return register

    def uncovered(self) -> set[str]:
        """Checks without a mutant."""
        return set(checks(self.contract)) - {mutant.check for mutant in self.all}

    def failing(self, plugin: Any, **suite: Any) -> set[str]:
        """Names of the checks that fail for a plugin."""
        made = self.made(plugin, suite)
        return {name for name in checks(made) if fails(made, name)}

    def noticed(self, mutant: Mutant) -> bool:
        """Whether a mutant fails the check that it was made for."""
        return fails(self.made(mutant.plugin, mutant.suite), mutant.check)

    def made(self, plugin: Any, suite: dict[str, Any]) -> type[Contract]:
        """The suite of a plugin."""
        return type("Suite", (self.contract,), {**self.suite, **suite, "plugin": plugin})


def checks(contract: type[Contract]) -> list[str]:
    """Names of a suite's checks."""
    return [name for name in dir(contract) if name.startswith("test_")]


def fails(suite: type[Contract], name: str) -> bool:
    """Run one check of a suite, in an instance and a folder of its own; one that is skipped does not fail."""
    check = getattr(suite(), name)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"tmp_path": Path(folder)} if "tmp_path" in inspect.signature(check).parameters else {}
        try:
            check(**arguments)
        except pytest.skip.Exception:
            return False
        except (Exception, pytest.fail.Exception):
            # Whatever a wrong plugin raises counts as a failed check, as it does in pytest.
            return True
    return False

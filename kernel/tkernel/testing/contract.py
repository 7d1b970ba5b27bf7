"""What the seven suites share: which plugin is tested, with which options."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tkernel.errors import AmbiguousProvider, BrokenPlugin, NoProvider

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "peft", "trl", "accelerate", "rich")
"""What no plugin's module imports at module level: listing and planning would wait for it."""


@dataclass(frozen=True)
class Resolved:
    """A plugin object and where it came from (`target` is None for an object given as such)."""

    object: Any
    name: str
    target: str | None = None


def find_plugin(kind: str, plugin: Any) -> Resolved:
    """The plugin that a suite names.

    Args:
        kind: `model`, `adapter`, `dataset`, `template`, `media`, `stage` or `engine`.
        plugin: the name of an installed entry point, `dist:name` where two register it,
            `pkg.mod:OBJECT`, or the object itself.

    Raises:
        NoProvider: nothing of that name is installed; the message lists what is.
        AmbiguousProvider: two distributions register the name.
        BrokenPlugin: the entry point's module has no such attribute.
    """
    if not isinstance(plugin, str):
        return Resolved(plugin, plugin.name)
    from importlib_metadata import entry_points

    distribution, _, name = plugin.rpartition(":")
    found = [
        entry
        for entry in entry_points(group=f"tkernel.{kind}")
        if entry.name == name and distribution in ("", entry.dist.name if entry.dist is not None else "")
    ]
    if len(found) > 1:
        names = sorted({entry.dist.name for entry in found if entry.dist is not None})
        raise AmbiguousProvider(
            f"{kind}:{name} is registered by {' and '.join(names)}",
            hint=f"Say which one: {names[0]}:{name}",
        )
    if found:
        return Resolved(_load(found[0].value), name, found[0].value)
    if distribution:
        return Resolved(_load(plugin), name, plugin)
    listed = ", ".join(sorted(installed(kind))) or "none"
    raise NoProvider(
        f"no plugin {kind}:{plugin} is installed; installed are: {listed}",
        hint="After a change of entry points, install the distribution again: pip install -e .",
    )


def installed(kind: str) -> set[str]:
    """Names of the installed plugins of a kind."""
    from importlib_metadata import entry_points

    return {entry.name for entry in entry_points(group=f"tkernel.{kind}")}


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BrokenPlugin(f"{target} cannot be loaded: {error}") from error


class Contract:
    """Base of the suites. A check is a method `test_...`; its docstring is the rule that it checks."""

    kind: ClassVar[str]
    plugin: ClassVar[Any]
    """The entry point's name, or the plugin object."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Values for fields of the plugin's `Options`; the other fields keep their defaults."""

    @property
    def provider(self) -> Any:
        """The plugin object."""
        return find_plugin(self.kind, self.plugin).object

    @property
    def name(self) -> str:
        """The plugin's entry-point name."""
        return find_plugin(self.kind, self.plugin).name

    def bound_options(self, **values: Any) -> Any:
        """The provider's `Options` with the suite's `options` and `values`; None if it declares none."""
        declared = getattr(self.provider, "Options", None)
        return None if declared is None else declared(**{**self.options, **values})

    def test_importing_the_plugin_imports_nothing_heavy(self) -> None:
        """A plugin's module imports tkernel and the standard library; torch & co. come inside the hook."""
        target = find_plugin(self.kind, self.plugin).target
        if target is None:
            import pytest

            pytest.skip("the plugin was given as an object; name its entry point to check its imports")
        module = target.partition(":")[0]
        script = (
            f"import sys; sys.path[:] = {sys.path!r}; import {module}; "
            f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
        )
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr
        assert child.stdout.split() == [], f"importing {module} imports {child.stdout.strip()}"

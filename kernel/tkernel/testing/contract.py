"""What the seven suites share: which plugin is tested, with which options."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from tkernel.activate import Loader
from tkernel.config.suggest import did_you_mean
from tkernel.doors import is_door, open_door
from tkernel.errors import AmbiguousProvider, InvalidPlugin, NoProvider
from tkernel.hookspecs import KINDS
from tkernel.imports import module_of
from tkernel.index import Entry, normalise, read_index
from tkernel.shape import check_shape
from tkernel.testing import CONTRACTS, STAGES_BY_ROWS

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "peft", "trl", "accelerate", "rich")
"""What no plugin's module imports at module level: listing and planning would wait for it."""


@functools.cache
def find_plugin(kind: str, plugin: str) -> Entry:
    """The entry of a plugin that a suite names, imported and checked by the kernel.

    Args:
        kind: `model`, `adapter`, `dataset`, `template`, `media`, `stage` or `engine`.
        plugin: the name of an installed entry point, `dist:name` where two register it,
            `pkg.mod:OBJECT`, or the path of a file, `./mine.py` or `./mine.jinja`.

    Raises:
        NoProvider: nothing of that name is installed; the message lists what is.
        AmbiguousProvider: two distributions register the name.
        PluginError: it is broken, lacks a requirement, or breaks the rules of plugins.
    """
    index = read_index()
    distribution, _, name = plugin.rpartition(":")
    wanted = normalise(distribution)
    if is_door(plugin, index):
        found = [entry for entry in open_door(plugin) if entry.kind == kind]
    else:
        found = [e for e in index.find(kind, name) if wanted in ("", normalise(e.distribution))]
    if len(found) > 1:
        names = sorted(entry.distribution for entry in found)
        raise AmbiguousProvider(
            f"{kind}:{name} is registered by {' and '.join(names)}", hint=f"Say which one: {names[0]}:{name}"
        )
    if not found:
        raise NoProvider(
            f"no plugin {kind}:{plugin} is installed; installed are: {', '.join(index.names(kind)) or 'none'}",
            hint="After a change of entry points, install the distribution again: pip install -e .",
        )
    return dataclasses.replace(found[0], object=Loader()(found[0]))


def suite_of(kind: str, plugin: str) -> type[Contract]:
    """The suite of a plugin, with the attributes that the plugin itself gives in `contract`.

    That is the kind's, for a stage that of its `rows`, or the subclass that `contract` names as `suite`.

    Raises:
        NoProvider, AmbiguousProvider, PluginError: see `find_plugin`.
        InvalidPlugin: `contract` names something that the suite does not have, or a suite that is not there.
    """
    entry = find_plugin(kind, plugin)
    told = dict(getattr(entry.object, "contract", {}))
    by_rows = STAGES_BY_ROWS.get(getattr(entry.object, "rows", "")) if kind == "stage" else None
    module, _, name = (told.pop("suite", None) or by_rows or CONTRACTS[kind]).partition(":")
    try:
        suite: type[Contract] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidPlugin(f"{entry}: the suite of its `contract` is not there: {error}") from error
    for attribute in told:
        if not hasattr(suite, attribute):
            hint = did_you_mean(attribute, [known for known in dir(suite) if known[0] != "_"])
            raise InvalidPlugin(
                f"{entry}: `contract` has {attribute!r}, which {name} does not know.", hint=hint
            )
    return type(f"Test{kind.title()}", (suite,), {"plugin": plugin, **told})


class Contract:
    """Base of the suites. A check is a method `test_...`; its docstring is the rule that it checks."""

    kind: ClassVar[str]
    plugin: ClassVar[Any]
    """The entry point's name, or the plugin object."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Values for fields of the plugin's `Options`; the other fields keep their defaults."""

    def setup_method(self) -> None:
        """Before each check: what the plugin says in `contract` counts where the test class says nothing."""
        told: Mapping[str, Any] = getattr(self.provider, "contract", {})
        own = [vars(c) for c in type(self).__mro__ if not c.__module__.startswith("tkernel.testing")]
        for attribute, value in told.items():
            if attribute != "suite" and not any(attribute in names for names in own):
                setattr(self, attribute, value)

    @property
    def entry(self) -> Entry:
        """The plugin's entry; for an object, one made up for it."""
        if isinstance(self.plugin, str):
            return find_plugin(self.kind, self.plugin)
        return Entry(self.kind, self.plugin.name, "", "object", "", object=self.plugin)

    @property
    def provider(self) -> Any:
        """The plugin object."""
        return self.entry.object

    @property
    def name(self) -> str:
        """The plugin's entry-point name."""
        return self.entry.name

    def bound_options(self, **values: Any) -> Any:
        """The provider's `Options` with the suite's `options` and `values`; None if it declares none."""
        declared = getattr(self.provider, "Options", None)
        return None if declared is None else declared(**{**self.options, **values})

    def test_the_kernel_accepts_it(self) -> None:
        """It answers the hook of its kind with a method that is marked `@hookimpl`, and breaks no rule of
        plugins."""
        found = check_shape(self.entry, self.provider)
        assert KINDS[self.kind] in [implementation.hook for implementation in found]

    def test_importing_the_plugin_imports_nothing_heavy(self) -> None:
        """A plugin's module imports tkernel and the standard library; torch & co. come inside the hook."""
        import pytest

        module = module_of(self.entry)
        if not module:
            pytest.skip("the plugin was given as an object; name its entry point to check its imports")
        if module.endswith(".jinja"):
            pytest.skip("a Jinja file imports nothing")
        of_a_file = f"import runpy; runpy.run_path({module!r})"
        script = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"{of_a_file if module.endswith('.py') else f'import {module}'}; "
            f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
        )
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr
        assert child.stdout.split() == [], f"importing {module} imports {child.stdout.strip()}"

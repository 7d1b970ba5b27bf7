"""Import the chosen plugins, check them, register them with pluggy, and call their hooks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import pluggy

from tkernel import hookspecs
from tkernel.errors import (
    BrokenPlugin,
    ExtensionMisbehaved,
    ImportedTooLate,
    NoProvider,
    ProviderMisbehaved,
    SlotError,
)
from tkernel.hookspecs import KINDS, PROJECT, RESULTS, hookimpl, missing_attributes
from tkernel.imports import load, survive
from tkernel.index import Entry, Index
from tkernel.requirements import unmet
from tkernel.shape import Implementation, check_shape
from tkernel.trace import Trace
from tkernel.types.bundle import ModelBundle
from tkernel.types.plan import Choice, Plan

IMPORT_BEFORE = ("transformers", "trl", "peft")
"""What the modules of `import_first` must precede, unless the plugin says otherwise (`import_before`)."""


class Loader:
    """Loads plugin objects once. Calling it gives the object of an entry: `choose(..., static=Loader())`.

    Raises:
        IncompatibleApi, MissingRequirement: from metadata, before anything is imported.
        BrokenPlugin: the module cannot be imported, or the object is not in it.
        InvalidPlugin: the object breaks the rules of its kind.
    """

    def __init__(self) -> None:
        self._objects: dict[Entry, Any] = {}
        self._implementations: dict[Entry, list[Implementation]] = {}

    def __call__(self, entry: Entry) -> Any:
        """The checked object of one entry."""
        self.load_all([entry])
        return self._objects[entry]

    def load_all(self, entries: Iterable[Entry]) -> None:
        """Check and import several entries, each check for all of them before the next check."""
        new = [entry for entry in dict.fromkeys(entries) if entry not in self._objects]
        for entry in new:
            if (error := unmet(entry)) is not None:
                raise error
        survive(new)
        for entry in new:
            plugin = load(entry)
            self._implementations[entry] = check_shape(entry, plugin)
            self._objects[entry] = plugin

    def implementations(self, entry: Entry) -> list[Implementation]:
        """The hook implementations of a loaded entry."""
        return self._implementations[entry]


class _Registration:
    """What pluggy holds of a plugin: its hook methods.

    pluggy compares and hashes plugins; a plugin that is a dataclass may be unhashable, or equal to another.
    """

    def __init__(self, hooks: dict[str, Callable[..., Any]]) -> None:
        vars(self).update(hooks)


@dataclass
class _Running:
    """The state of one hook call, as the kernel's own wrappers between the extensions see it."""

    choice: Choice
    result: Any = None
    error: BaseException | None = None


class Active:
    """The plugins of a plan, ready to be called; see `activate`."""

    def __init__(self, plan: Plan, index: Index, loader: Loader) -> None:
        self.plan = plan
        self.trace = Trace()
        self._loader = loader
        self._entries = {choice: entry_of(choice, index) for choice in (*plan.choices, *plan.extensions)}
        self._bases = {
            entry: base_of(entry, index)
            for entry in self._entries.values()
            if entry.variant is not None and entry.kind in KINDS
        }
        loader.load_all([*self._entries.values(), *self._bases.values()])
        self._options: dict[str, Any] = {}
        self._providers: dict[int, _Registration] = {}
        self._running: list[_Running] = []
        self._begun = False
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._register()
        self.check_import_order()

    def object(self, choice: Choice) -> Any:
        """The plugin object of a choice."""
        return self._loader(self._entries[choice])

    def options_class(self, choice: Choice) -> type[Any] | None:
        """The `Options` of a choice, None if it declares none; a variant has those of what it varies."""
        entry = self._entries[choice]
        options: type[Any] | None = getattr(self._loader(self._bases.get(entry, entry)), "Options", None)
        return options

    def bind(self, extension: Choice, options: Any) -> None:
        """Give an extension its bound options; it reads them as `request.slots.options(name)`."""
        self._options[extension.name] = options

    def begin(self) -> None:
        """Import what plugins declare in `import_first`. Call it before anything heavy is imported.

        Raises:
            ImportedTooLate: a module that must come later is loaded already.
            BrokenPlugin: a module of `import_first` fails on import.
        """
        if self._begun:
            return
        self.check_import_order()
        for entry in self._entries.values():
            for module in getattr(self._loader(entry), "import_first", ()):
                try:
                    importlib.import_module(module)
                except Exception as error:
                    raise BrokenPlugin(
                        f"{entry} needs {module}, which fails on import: {type(error).__name__}: {error}",
                        hint=f"Try: python -c 'import {module}'",
                    ) from error
        self._begun = True

    def check_import_order(self) -> None:
        """Raise `ImportedTooLate` if a module of `import_first` cannot come first any more."""
        for entry in self._entries.values():
            plugin = self._loader(entry)
            missing = [name for name in getattr(plugin, "import_first", ()) if name not in sys.modules]
            later = [name for name in getattr(plugin, "import_before", IMPORT_BEFORE) if name in sys.modules]
            if missing and later:
                raise ImportedTooLate(
                    f"{entry} must import {missing[0]} before {later[0]}, which is loaded already.",
                    hint=f"Start a new process (in a notebook: restart the kernel) and import {missing[0]} first.",
                )

    def call(self, choice: Choice, request: Any, bundle: ModelBundle | None = None) -> Any:
        """Call the hook of `choice`: its provider, with the active extensions around it.

        `bundle` is the first argument of `adapt`, and of no other hook.

        Raises:
            ProviderMisbehaved: the provider returned None or a value of the wrong type.
            ExtensionMisbehaved: an extension swallowed an exception, changed the type of the result, or
                did not yield once.
            SlotError: an extension filled a slot that the provider did not read.
            Exception: whatever provider or extensions raise.
        """
        self.begin()
        hook = choice.hook
        provider = self._providers[id(self.object(choice))]
        caller = self._manager.subset_hook_caller(
            hook, [other for other in self._providers.values() if other is not provider]
        )
        arguments = {"request": request} if bundle is None else {"bundle": bundle, "request": request}
        wrapping = tuple(e.name for e in self.plan.extensions if hook in self._hooks(e))
        for extension in wrapping:
            request.slots.bind(extension, self._options.get(extension))
        with self.trace.measure(choice, wrapping):
            self._running.append(_Running(choice))
            try:
                result = caller(**arguments)
            except RuntimeError as error:
                if str(error).startswith("wrap_controller at"):  # pluggy's words for a wrapper's mistake
                    raise ExtensionMisbehaved(
                        f"an extension of {hook}: {error}.", hint="A wrapper yields exactly once."
                    ) from error
                raise
            finally:
                self._running.pop()
            for slot, writers in request.slots.unread().items():
                raise SlotError(
                    f"{self._entries[choice]} did not read the slot {slot!r} of {hook}, which {writers} filled.",
                    hint=f"Leave {writers} out, or choose another {choice.kind}.",
                )
        return result

    def _hooks(self, choice: Choice) -> dict[str, Callable[..., Any]]:
        return {i.hook: i.function for i in self._loader.implementations(self._entries[choice])}

    def _register(self) -> None:
        """Providers first, then the innermost check, then extensions from the last to the first.

        pluggy calls what was registered last first: so the first of `plugins:` is the outermost.
        """
        for choice in self.plan.choices:
            plugin = self.object(choice)
            if id(plugin) not in self._providers:
                registration = self._providers[id(plugin)] = _Registration(self._hooks(choice))
                name = f"{choice.kind}:{choice.name}@{choice.distribution}:{choice.target}"
                self._manager.register(registration, name)
        self._manager.register(
            _Registration({hook: self._innermost(hook) for hook in RESULTS}), "kernel: innermost check"
        )
        for choice in reversed(self.plan.extensions):
            hooks = self._hooks(choice)
            name = f"extension:{choice.name}@{choice.distribution}:{choice.target}"
            self._manager.register(_Registration(hooks), name)
            around = {hook: self._around(hook, self._entries[choice]) for hook in hooks}
            self._manager.register(_Registration(around), f"kernel: check around {name}")

    def _innermost(self, hook: str) -> Callable[..., Any]:
        def innermost() -> Generator[None, Any, Any]:
            running = self._running[-1]
            try:
                result = yield
                if missing := missing_attributes(hook, result):
                    lacks = f"a {type(result).__name__} from {hook}, which has no {', '.join(missing)}"
                    raise ProviderMisbehaved(
                        f"{self._entries[running.choice]} returned {f'None from {hook}' if result is None else lacks}.",
                        hint=f"See the docstring of tkernel.hookspecs.{hook} for what it returns.",
                    )
            except BaseException as error:
                running.error = error
                raise
            running.result = result
            return result

        return hookimpl(wrapper=True, specname=hook)(innermost)

    def _around(self, hook: str, extension: Entry) -> Callable[..., Any]:
        def around() -> Generator[None, Any, Any]:
            running = self._running[-1]
            try:
                result = yield
            except BaseException as error:
                running.error = error
                raise
            if running.error is not None:
                swallowed = running.error
                raise ExtensionMisbehaved(
                    f"{extension} swallowed an exception of {hook}: {type(swallowed).__name__}: {swallowed}",
                    hint="Let the exception go on: an extension may look at it, not stop it.",
                ) from swallowed
            if not isinstance(result, type(running.result)):
                raise ExtensionMisbehaved(
                    f"{extension} made a {type(result).__name__} of the {type(running.result).__name__} "
                    f"that {hook} returned.",
                    hint="End the wrapper with `return result`, of the same type.",
                )
            running.result = result
            return result

        return hookimpl(wrapper=True, specname=hook)(around)


def activate(plan: Plan, index: Index, loader: Loader | None = None) -> Active:
    """Import and check every plugin of `plan`; nothing heavy is imported yet (see `Active.begin`).

    Raises:
        PluginError: the first one that is wrong: API range and requirements of all plugins come
            before the import of any.
    """
    return Active(plan, index, loader or Loader())


def entry_of(choice: Choice, index: Index) -> Entry:
    """The entry of a choice.

    Raises:
        NoProvider: it is not in the index (a plan of another environment).
    """
    for entry in index.find(choice.kind, choice.name):
        if (entry.distribution, entry.target) == (choice.distribution, choice.target):
            return entry
    raise NoProvider(
        f"{choice.kind}:{choice.name} of {choice.distribution} {choice.version} is not installed.",
        hint=f"Run: pip install '{choice.distribution}=={choice.version}'",
    )


def base_of(entry: Entry, index: Index) -> Entry:
    """What a variant varies: the kernel's own plugin of that name if there is one, else the first."""
    bases = index.find(entry.kind, entry.base)
    if not bases:
        raise NoProvider(
            f"{entry} is a variant of {entry.kind}:{entry.base}, which is not installed.",
            hint=f"Install the distribution that registers {entry.kind}:{entry.base}.",
        )
    return next((base for base in bases if base.distribution == PROJECT), bases[0])

"""What a plugin object must look like, checked when it has been imported and before anything is called."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tkernel import hookspecs
from tkernel.config.suggest import did_you_mean
from tkernel.errors import InvalidPlugin
from tkernel.hookspecs import KINDS, PROJECT
from tkernel.index import Entry

KIND_OF_HOOK = {hook: kind for kind, hook in KINDS.items()}


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A method marked with `@hookimpl`, bound to its plugin; `options` are the marker's arguments."""

    hook: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def is_wrapper(self) -> bool:
        """Whether it wraps the hook or answers it."""
        return bool(self.options.get("wrapper") or self.options.get("hookwrapper"))


def implementations(plugin: object) -> list[Implementation]:
    """The marked methods of a plugin object; properties are not evaluated."""
    found = []
    for name in dir(plugin):
        static = inspect.getattr_static(plugin, name, None)
        if name.startswith("__") or not (callable(static) or isinstance(static, staticmethod | classmethod)):
            continue
        function = getattr(plugin, name)
        options = getattr(function, f"{PROJECT}_impl", None)
        if options is not None:
            found.append(Implementation(options.get("specname") or name, function, options))
    return found


def check_shape(entry: Entry, plugin: object) -> list[Implementation]:
    """The hook implementations of `plugin`.

    Raises:
        InvalidPlugin: it is a class, it has no name, its `Options` are no frozen dataclass, or its
            hook implementations are not those of its kind.
    """
    if entry.kind == "command":
        return []
    found = implementations(plugin)
    for message, hint in _mistakes(entry, plugin, found):
        raise InvalidPlugin(f"{entry}{message}", hint=hint)
    return found


Mistakes = Iterator[tuple[str, str]]
"""What is wrong with a plugin, after its name, and how to mend it."""


def _mistakes(entry: Entry, plugin: object, found: Sequence[Implementation]) -> Mistakes:
    if inspect.isclass(plugin):
        module = entry.target.partition(":")[0]
        hint = f"Write PLUGIN = {plugin.__name__}() and name that: `{module}:PLUGIN`."
        yield f" is the class {plugin.__name__}; a plugin is an instance.", hint
    for implementation in found:
        yield from _of_signature(implementation)
    yield from _of_extension(found) if entry.kind == "extension" else _of_provider(entry, plugin, found)
    if not isinstance(getattr(plugin, "name", None), str):
        yield " has no `name`.", f'Add the attribute: name = "{entry.base}"'
    yield from _of_options(entry, getattr(plugin, "Options", None))


def _of_signature(implementation: Implementation) -> Mistakes:
    hook = implementation.hook
    if hook not in KIND_OF_HOOK:
        hooks = ", ".join(KIND_OF_HOOK)
        hint = did_you_mean(hook, KIND_OF_HOOK) or f"The hooks are {hooks}."
        yield f" implements {hook!r}, which is no hook.", hint
        return
    known = inspect.signature(getattr(hookspecs, hook)).parameters
    for name, parameter in inspect.signature(implementation.function).parameters.items():
        if name not in known and parameter.default is parameter.empty:
            message = f": {hook} takes no argument {name!r}; its arguments are {', '.join(known)}."
            yield message, did_you_mean(name, known) or f"Take it out of the signature of {hook}."


def _of_provider(entry: Entry, plugin: object, found: Sequence[Implementation]) -> Mistakes:
    wanted = KINDS[entry.kind]
    answers = f"; a plugin of kind {entry.kind} answers {wanted}."
    for implementation in found:
        hook = implementation.hook
        if implementation.is_wrapper:
            hint = "Take away `wrapper=True`, or register it in the group `tkernel.extension`."
            yield f" wraps {hook}{answers}", hint
        elif hook != wanted:
            hint = f"Register it in the group `tkernel.{KIND_OF_HOOK[hook]}`."
            yield f" implements {hook}{answers}", hint
    if not found:
        unmarked = callable(getattr(plugin, wanted, None))
        hint = f"Put @hookimpl on its method {wanted}." if unmarked else f"Add a method {wanted}."
        yield f" implements no hook{answers}", hint
    if len(found) > 1:
        yield f" implements {wanted} twice.", "Take away one of the two."


def _of_extension(found: Sequence[Implementation]) -> Mistakes:
    for implementation in found:
        hook, options = implementation.hook, implementation.options
        if not options.get("wrapper"):
            hint = "Write @hookimpl(wrapper=True), and let the method yield once."
            yield f" answers {hook}; an extension wraps hooks.", hint
        if not inspect.isgeneratorfunction(implementation.function):
            hint = "Write `result = yield` and end with `return result`."
            yield f": its {hook} does not yield, so that the provider would never be called.", hint
        if options.get("tryfirst") or options.get("trylast"):
            hint = "Take away tryfirst and trylast: wrappers nest in the order of `plugins:`."
            yield f": its {hook} asks for a place among the wrappers.", hint
    if not found:
        yield " wraps no hook.", f"Put @hookimpl(wrapper=True) on one of {', '.join(KIND_OF_HOOK)}."


def _of_options(entry: Entry, options: object) -> Mistakes:
    if options is None:
        return
    if not (inspect.isclass(options) and dataclasses.is_dataclass(options)):
        yield ": `Options` is no dataclass.", "Put @dataclass(frozen=True) on it."
    elif not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield ": `Options` can be changed after binding.", "Write @dataclass(frozen=True)."
    if entry.variant is not None:
        base = f"{entry.kind}:{entry.base}"
        hint = "Take them away, or give the further keys to an extension."
        yield f" declares `Options`; a variant takes those of {base}.", hint

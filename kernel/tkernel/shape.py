"""What a plugin object must look like, checked when it has been imported and before anything is called."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cache
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


@cache
def hook_arguments(hook: str) -> tuple[str, ...]:
    """Names of the arguments of a hook."""
    return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)


def check_shape(entry: Entry, plugin: object) -> list[Implementation]:
    """The hook implementations of `plugin`.

    Raises:
        InvalidPlugin: it is a class, it has no name, its `Options` are no frozen dataclass, or its
            hook implementations are not those of its kind.
    """
    if entry.kind == "command":
        return []
    if inspect.isclass(plugin):
        raise InvalidPlugin(
            f"{entry} is the class {plugin.__name__}; a plugin is an instance.",
            hint=f"Write PLUGIN = {plugin.__name__}() and name that: `{entry.target.partition(':')[0]}:PLUGIN`.",
        )
    found = implementations(plugin)
    for implementation in found:
        _check_known(entry, implementation)
    if entry.kind == "extension":
        _check_extension(entry, found)
    else:
        _check_provider(entry, found, plugin)
    if not isinstance(getattr(plugin, "name", None), str):
        raise InvalidPlugin(f"{entry} has no `name`.", hint=f'Add the attribute: name = "{entry.base}"')
    _check_options(entry, getattr(plugin, "Options", None))
    return found


def _check_known(entry: Entry, implementation: Implementation) -> None:
    hook = implementation.hook
    if hook not in KIND_OF_HOOK:
        raise InvalidPlugin(
            f"{entry} implements {hook!r}, which is no hook.",
            hint=did_you_mean(hook, KIND_OF_HOOK) or f"The hooks are {', '.join(KIND_OF_HOOK)}.",
        )
    known = hook_arguments(hook)
    for name, parameter in inspect.signature(implementation.function).parameters.items():
        if name not in known and parameter.default is parameter.empty:
            raise InvalidPlugin(
                f"{entry}: {hook} takes no argument {name!r}; its arguments are {', '.join(known)}.",
                hint=did_you_mean(name, known) or f"Take it out of the signature of {hook}.",
            )


def _check_provider(entry: Entry, found: list[Implementation], plugin: object) -> None:
    wanted = KINDS[entry.kind]
    for implementation in found:
        if implementation.is_wrapper:
            raise InvalidPlugin(
                f"{entry} wraps {implementation.hook}; a plugin of kind {entry.kind} answers {wanted}.",
                hint="Take away `wrapper=True`, or register it in the group `tkernel.extension`.",
            )
        if implementation.hook != wanted:
            raise InvalidPlugin(
                f"{entry} implements {implementation.hook}; a plugin of kind {entry.kind} answers {wanted}.",
                hint=f"Register it in the group `tkernel.{KIND_OF_HOOK[implementation.hook]}`.",
            )
    if not found:
        unmarked = callable(getattr(plugin, wanted, None))
        raise InvalidPlugin(
            f"{entry} implements no hook; a plugin of kind {entry.kind} answers {wanted}.",
            hint=f"Put @hookimpl on its method {wanted}." if unmarked else f"Add a method {wanted}.",
        )
    if len(found) > 1:
        raise InvalidPlugin(f"{entry} implements {wanted} twice.", hint="Take away one of the two.")


def _check_extension(entry: Entry, found: list[Implementation]) -> None:
    for implementation in found:
        hook, options = implementation.hook, implementation.options
        if not options.get("wrapper"):
            raise InvalidPlugin(
                f"{entry} answers {hook}; an extension wraps hooks.",
                hint="Write @hookimpl(wrapper=True), and let the method yield once.",
            )
        if not inspect.isgeneratorfunction(implementation.function):
            raise InvalidPlugin(
                f"{entry}: its {hook} does not yield, so that the provider would never be called.",
                hint="Write `result = yield` and end with `return result`.",
            )
        if options.get("tryfirst") or options.get("trylast"):
            raise InvalidPlugin(
                f"{entry}: its {hook} asks for a place among the wrappers.",
                hint="Take away tryfirst and trylast: wrappers nest in the order of `plugins:`.",
            )
    if not found:
        raise InvalidPlugin(
            f"{entry} wraps no hook.",
            hint=f"Put @hookimpl(wrapper=True) on one of {', '.join(KIND_OF_HOOK)}.",
        )


def _check_options(entry: Entry, options: object) -> None:
    if options is None:
        return
    if not (inspect.isclass(options) and dataclasses.is_dataclass(options)):
        raise InvalidPlugin(f"{entry}: `Options` is no dataclass.", hint="Put @dataclass(frozen=True) on it.")
    if not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InvalidPlugin(
            f"{entry}: `Options` can be changed after binding.", hint="Write @dataclass(frozen=True)."
        )
    if entry.variant is not None:
        raise InvalidPlugin(
            f"{entry} declares `Options`; a variant takes those of {entry.kind}:{entry.base}.",
            hint="Take them away, or give the further keys to an extension.",
        )

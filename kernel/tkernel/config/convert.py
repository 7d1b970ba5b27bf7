"""A value as it was written into the type that its owner declares."""

from __future__ import annotations

import enum
import json
import math
import operator
import os
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from tkernel.config.read import Setting, parse_value
from tkernel.config.suggest import did_you_mean
from tkernel.errors import Problem
from tkernel.references import FunctionNotFound, find_function, is_reference

BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "more than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}
"""Keys of a dataclass field's metadata that bound numbers: `field(default=8, metadata={"ge": 1})`."""

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}


def convert(
    setting: Setting, annotation: Any, bounds: Mapping[str, Any], choices: Iterable[str] = ()
) -> tuple[Any, Problem | None]:
    """The value in the type `annotation`, or the problem with it.

    Taken as meant: `yes`, `no`, `on`, `off` for booleans, quoted numbers for numbers, `1e3` for whole
    numbers, numbers for text, a comma-separated text for a list. With `function` in `bounds`, text such as
    `pkg.mod:fn` passes `choices`, and has to name a function (`tkernel.references`).
    """
    wanted = _members(annotation)
    value = _as_meant(setting, wanted)
    if value is None and type(None) not in wanted:
        hint = "Give it a value, or take the line out."
        return None, _problem(setting, f"{setting.key} is empty, and wants {_describe(wanted)}", hint)
    options = list(choices) or ([] if str in wanted else [str(item) for item in _literals(wanted)])
    function = bounds.get("function") and is_reference(value)
    free = value in options or function if isinstance(value, str) else True
    if options and not free and Any not in wanted and not _lists(wanted):
        hint = f"{did_you_mean(value, options) or ''} It takes: {', '.join(options)}.".strip()
        return None, _problem(setting, f"{setting.key} cannot be {value!r}", hint)
    try:
        value = _validate(value, annotation)
    except ValueError as error:
        return None, _wrong_type(setting, wanted, error)
    if isinstance(value, float) and not math.isfinite(value):
        return None, _problem(setting, f"{setting.key} must be a finite number, not {setting.text or value}")
    for text in value if isinstance(value, list | tuple) else [value]:
        if bounds.get("function") and isinstance(text, str) and ":" in text:
            try:
                find_function(text)
            except FunctionNotFound as error:
                return None, _problem(setting, f"{setting.key}: {error.message}", error.hint)
    for name, (holds, words) in BOUNDS.items():
        if name in bounds and isinstance(value, int | float) and not holds(value, bounds[name]):
            message = f"{setting.key} must be {words} {bounds[name]}, not {setting.text or value}"
            return None, _problem(setting, message)
    return value, None


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for item in get_args(annotation) for member in _members(item))
    return (annotation,)


def _as_meant(setting: Setting, wanted: tuple[Any, ...]) -> Any:
    value, text = setting.value, setting.text
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, tuple):
        value = list(value)
    lists = _lists(wanted)
    if Any in wanted:
        return value
    if str in wanted:
        if type(value) in (int, float) and not {int, float} & set(wanted):
            return text or str(value)
        if isinstance(value, dict) and text and dict not in wanted:
            return text  # `--default_system {name}`
        return value
    if lists and (value is None and type(None) not in wanted):
        return []
    if lists and isinstance(value, str) and not any(_literals(wanted)):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return parts if get_args(lists[0])[:1] in ((), (str,)) else [parse_value(part) for part in parts]
    if isinstance(value, str):
        if bool in wanted and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        number = parse_value(value) if {int, float} & set(wanted) else value
        value = number if isinstance(number, int | float) and not isinstance(number, bool) else value
    if isinstance(value, float) and int in wanted and float not in wanted and value.is_integer():
        return int(value)
    return value


def _validate(value: Any, annotation: Any) -> Any:
    """Through pydantic, as strict as it is with JSON: no number from a boolean, tuples from lists."""
    adapter = _adapter(annotation)
    try:
        text = json.dumps(value)
    except TypeError:  # an object given from Python
        return adapter.validate_python(value)
    return adapter.validate_json(text, strict=True)


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass brings its own configuration
        return TypeAdapter(annotation)


def _wrong_type(setting: Setting, wanted: tuple[Any, ...], error: ValueError) -> Problem:
    shown = repr(setting.value) if setting.text is None or isinstance(setting.value, str) else setting.text
    if isinstance(setting.value, bool):
        shown = setting.text or str(setting.value).lower()
    hint = None
    if isinstance(setting.value, list) and str in wanted and all(isinstance(i, str) for i in setting.value):
        hint = f"Write it as text: {setting.key}: {','.join(setting.value)}"
    elif bool in wanted and setting.value in (0, 1):
        hint = f"Write {'true' if setting.value else 'false'}."
    message = f"{setting.key} wants {_describe(wanted)}, not {shown}"
    details: list[Any] = getattr(error, "errors", list)()
    if details and details[0]["loc"] and len(wanted) == 1:
        place = ".".join(map(str, details[0]["loc"]))
        hint = hint or f"At {place}: {details[0]['msg']}."
    return _problem(setting, message, hint)


def _describe(wanted: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(_name(member) for member in wanted if member is not type(None)))


def _name(member: Any) -> str:
    literals = _literals((member,))
    if literals:
        return f"one of {', '.join(map(str, literals))}"
    if _lists((member,)):
        return "a list"
    return _NAMES.get(get_origin(member) or member, getattr(member, "__name__", str(member)))


def _literals(wanted: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for member in wanted:
        if get_origin(member) is Literal:
            found += get_args(member)
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            found += [item.value for item in member]
    return found


def _lists(wanted: tuple[Any, ...]) -> list[Any]:
    return [member for member in wanted if (get_origin(member) or member) in (list, tuple)]


def _problem(setting: Setting, message: str, hint: str | None = None) -> Problem:
    return Problem(message, setting.origin, setting.key, hint)

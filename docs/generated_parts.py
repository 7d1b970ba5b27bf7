"""The generated parts of the documentation, one function each: tables and references, as Markdown."""

from __future__ import annotations

import configparser
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib import import_module
from typing import Any

from source_reading import BOUND_WORDS, ROOT, Class, Field, Method, classes, find_class, functions

from tkernel.config.options import RunOptions
from tkernel.hookspecs import KINDS
from tkernel.testing import CONTRACTS
from tkernel_plugins.keys.argument_keys import RANGES
from tkernel_plugins.keys.renames import RENAMES
from tkernel_plugins.keys.training_arguments import read_arguments
from tkernel_plugins.keys.unowned import ABSENT

TYPES = (
    *("check", "requests", "bundle", "conversation", "dataset", "rendering", "media", "stage", "engine"),
    *("slots", "facts", "plan"),
)
"""Modules of `tkernel.types`, in the order in which a plugin author meets them."""


# -- Markdown --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: str) -> str:
    """Text as a code span; nothing for no text."""
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """A docstring as Markdown: its sections in bold, its example as a block of code."""
    text = re.sub(r"Example::\n\n((?:    .*\n?|\n)+)", _example, text + "\n")
    text = re.sub(r"^(Returns|Raises|Args):\n((?:    .*\n?|\n(?=    ))+)", _section, text, flags=re.MULTILINE)
    text = re.sub(r"^(.*[^:\n]):: *\n\n((?:    .*\n?|\n(?=    ))+)", _code, text, flags=re.MULTILINE)
    return text.strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _example(match: re.Match[str]) -> str:
    return f"```python\n{inspect.cleandoc(match[1])}\n```\n"


def _code(match: re.Match[str]) -> str:
    return f"{match[1]}:\n\n```python\n{inspect.cleandoc(match[2])}\n```\n"


def _section(match: re.Match[str]) -> str:
    """Items `name: text` become a list; other text follows the word."""
    body = inspect.cleandoc(match[2])
    items = re.split(r"\n(?=\w[\w, ]*: )", body)
    if match[1] == "Returns" or not all(re.match(r"\w[\w, ]*: ", item) for item in items):
        return f"**{match[1]}** {' '.join(body.split())}\n"
    listed = []
    for item in items:
        names, _, said = item.partition(": ")
        listed.append(f"- {', '.join(map(code, names.split(', ')))}: {' '.join(said.split())}")
    return f"**{match[1]}**\n\n" + "\n".join(listed) + "\n"


# -- plugins ----------------------------------------------------------------------------------------


@cache
def register(kind: str) -> Mapping[str, tuple[str, ...]]:
    """`module:object` of the built-in plugins of a kind -> their names, from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.optionxform = str
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    found: dict[str, tuple[str, ...]] = {}
    for line in parser["options.entry_points"].get(f"tkernel.{kind}", "").split("\n"):
        if line.strip():
            name, _, target = (part.strip() for part in line.partition("="))
            found[target] = (*found.get(target, ()), name)
    return found


def plugin(target: str) -> Any:
    """The plugin object."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def built_in(kind: str) -> str:
    """A table of the built-in plugins of a kind, with the facts that they declare."""
    rows = []
    for target, names in register(kind).items():
        found = plugin(target)
        names = tuple(sorted(names, key=lambda name: name != getattr(found, "name", name)))
        rows.append((", ".join(map(code, names)), *FACTS[kind](found)))
    return table(HEADS[kind], rows)


def _about(found: Any) -> tuple[str, ...]:
    return (inspect.cleandoc(type(found).__doc__ or "").split("\n")[0],)


def _of_model(found: Any) -> tuple[str, ...]:
    targets = ", ".join(map(code, found.lora_targets)) or "found in the model"
    return code(found.default_template), targets, code(found.media or "") or "none"


def _of_template(found: Any) -> tuple[str, ...]:
    if found.name == "auto":
        return "the tokenizer's own chat template", "as it writes them", "as it writes them"
    ends = ", ".join(map(code, found.stop_words)) or "end of sequence"
    return ends, code(found.tool_format), "yes" if found.reasoning else "no"


def _of_stage(found: Any) -> tuple[str, ...]:
    return (*_about(found), code(found.rows), code(found.training_arguments))


def _of_engine(found: Any) -> tuple[str, ...]:
    return (*_about(found), ", ".join(map(code, found.capabilities)))


HEADS: Mapping[str, tuple[str, ...]] = {
    "model": ("name", "default template", "`lora_target: all`", "media"),
    "template": ("name", "stop words", "tool format", "reasoning"),
    "stage": ("name", "what it does", "rows", "training arguments"),
    "engine": ("name", "what it does", "capabilities"),
    **dict.fromkeys(("adapter", "dataset", "media", "extension"), ("names", "what it does")),
}
FACTS: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "model": _of_model,
    "template": _of_template,
    "stage": _of_stage,
    "engine": _of_engine,
    **dict.fromkeys(("adapter", "dataset", "media", "extension"), _about),
}


def options(kind: str) -> str:
    """Tables of the options of a kind's built-in plugins, one for each dataclass that declares some."""
    found = [plugin(target) for target in register(kind)]
    declared: dict[type[Any], list[str]] = {}
    for one in found:
        for base in reversed(getattr(one, "Options", object).__mro__[:-1]):
            declared.setdefault(base, []).append(one.name)
    parts = []
    for base, names in declared.items():
        source = find_class(base.__module__, base.__name__)
        if source.fields:
            others = [one.name for one in found if one.name not in names]
            whose = ", ".join(map(code, names))
            if not others and len(names) > 1:
                whose = "all of them"
            elif others and len(others) * 10 < len(names):
                whose = "all but " + ", ".join(map(code, others))
            parts.append(f"Of {whose} (`{base.__module__}.{base.__name__}`): {_first(source)}")
            parts.append(field_table(source.fields, "key"))
    return "\n\n".join(parts)


def kernel_options() -> str:
    """The keys that the kernel owns."""
    return field_table(find_class(RunOptions.__module__, RunOptions.__name__).fields, "key")


def field_table(found: Iterable[Field], head: str) -> str:
    """Fields with type, bounds, default and meaning."""
    rows = [
        (code(f.name), ", ".join(filter(None, (code(f.type), f.bounds))), code(f.default), f.text)
        for f in found
    ]
    return table((head, "type", "default", "meaning"), rows)


def _first(source: Class) -> str:
    return " ".join(source.text.split("\n\n")[0].split())


# -- configuration ----------------------------------------------------------------------------------


def renames() -> str:
    """Training arguments that transformers dropped, and what became of them."""
    rows = []
    for name, rename in RENAMES.items():
        if rename.new is None:
            now = "accepted where it asks for what is the only behaviour left"
        else:
            now = f"environment variable `{rename.new[1:]}`" if rename.new[0] == "$" else code(rename.new)
        rows.append((code(name), now, rename.note))
    return table(("old key", "now", "note"), rows)


def argument_bounds() -> str:
    """Bounds of training arguments that transformers does not check when it reads them."""
    rows = [
        (
            code(name),
            " and ".join(f"{BOUND_WORDS[key]} {bounds[key]}" for key in BOUND_WORDS if key in bounds),
        )
        for name, bounds in RANGES.items()
        if BOUND_WORDS.keys() & bounds.keys()
    ]
    return table(("key", "must be"), rows)


def errors() -> str:
    """Every error type with its exit code."""
    found = {one.name: one for one in classes("tkernel.errors")}
    module = import_module("tkernel.errors")
    rows = [
        (code(name), str(getattr(module, name).exit_code), _first(one))
        for name, one in found.items()
        if hasattr(getattr(module, name), "exit_code")
    ]
    return table(("error", "exit code", "what it means"), rows)


def llamafactory_keys() -> str:
    """Where each of LLaMA-Factory's own keys is: by owner, accepted at its default only, or absent."""
    path = ROOT / "plugins" / "tkernel_plugins" / "keys" / "llamafactory.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    owners = dict.fromkeys((field.name for field in fields(RunOptions)), "the kernel")
    for kind in (*KINDS, "command"):
        for target in register(kind):
            found = plugin(target)
            for field in fields(getattr(found, "Options", None) or _Nothing):
                owner = f"plugins of kind {kind}" if kind in ("model", "template", "dataset") else None
                owner = owner or getattr(found, "name", getattr(found, "__name__", ""))
                owner = "every adapter" if field.name in _shared_of_adapters() else owner
                owners.setdefault(field.name, owner if " " in owner else f"{kind}:{owner}")
    arguments = read_arguments("transformers.training_args:TrainingArguments").fields
    groups: dict[str, list[str]] = {}
    for name, fact in sorted(facts.items()):
        if name in owners:
            where = owners[name]
        elif name in arguments or name in RENAMES:
            where = "training arguments"
        elif fact["group"] in ABSENT:
            where = f"refused, unless at its default: belongs to {ABSENT[fact['group']]}"
        else:
            where = "refused, unless at its default: no installed plugin provides it"
        groups.setdefault(where, []).append(name)
    order = sorted(groups, key=lambda where: (where.startswith("refused"), where))
    return table(
        ("owner here", "LLaMA-Factory's keys"), [(w, ", ".join(map(code, groups[w]))) for w in order]
    )


class _Nothing:
    __dataclass_fields__: Mapping[str, Any] = {}


def _shared_of_adapters() -> set[str]:
    found = [plugin(target) for target in register("adapter")]
    return set.intersection(*({field.name for field in fields(one.Options)} for one in found))


# -- references -------------------------------------------------------------------------------------


def hooks() -> str:
    """Every hook: kind, signature and docstring."""
    kind_of = {hook: kind for kind, hook in KINDS.items()}
    parts = []
    for function in functions("tkernel.hookspecs"):
        if function.name in kind_of:
            parts.append(f"## {function.name}\n\nAnswered by plugins of kind `{kind_of[function.name]}`.")
            parts.append(f"```python\n{function.signature}\n```\n\n{prose(function.text)}")
    return "\n\n".join(parts)


def types() -> str:
    """Every type that travels between hooks: fields and methods."""
    parts = []
    for module in TYPES:
        parts.append(f"## tkernel.types.{module}")
        parts += [_type(found) for found in classes(f"tkernel.types.{module}")]
    return "\n\n".join(parts)


def _type(found: Class) -> str:
    parts = [f"### {found.name}", prose(found.text)]
    if found.fields:
        parts.append(field_table(found.fields, "field"))
    parts += list(_methods(found.methods))
    return "\n\n".join(filter(None, parts))


def _methods(found: Iterable[Method]) -> Iterator[str]:
    for method in found:
        yield f"`{method.signature}`\n\n{prose(method.text)}".strip()


def checks(kind: str) -> str:
    """The checks of a contract suite: their names and the rules that they hold."""
    module, _, name = CONTRACTS[kind].partition(":")
    suite = find_class(module, name)
    rows = [(code(m.name), m.text.split("\n\n")[0]) for m in suite.methods if m.name.startswith("test_")]
    settings = [(code(f.name), code(f.default), f.text) for f in suite.fields if f.text]
    parts = [_first(suite), table(("check", "rule"), rows)]
    if settings:
        parts += ["What a subclass may set:", table(("attribute", "default", "meaning"), settings)]
    return "\n\n".join(parts)


def shared_checks() -> str:
    """The checks that all suites share."""
    suite = find_class("tkernel.testing.contract", "Contract")
    rows = [(code(m.name), m.text.split("\n\n")[0]) for m in suite.methods if m.name.startswith("test_")]
    return table(("check", "rule"), rows)


PARTS: Mapping[str, Callable[..., str]] = {
    "built-in": built_in,
    "options": options,
    "kernel-options": kernel_options,
    "renames": renames,
    "argument-bounds": argument_bounds,
    "errors": errors,
    "llamafactory-keys": llamafactory_keys,
    "hooks": hooks,
    "types": types,
    "checks": checks,
    "shared-checks": shared_checks,
}

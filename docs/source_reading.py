"""Public names, fields and docstrings, read from source without importing it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "kernel", ROOT / "plugins")

BOUND_WORDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Field:
    """One field of a dataclass, as it is written."""

    name: str
    type: str
    default: str
    text: str
    bounds: str = ""


@dataclass(frozen=True)
class Method:
    """A function with its signature on one line."""

    name: str
    signature: str
    text: str


@dataclass(frozen=True)
class Class:
    """A class; `fields` are those that it declares itself."""

    name: str
    bases: tuple[str, ...]
    text: str
    fields: tuple[Field, ...]
    methods: tuple[Method, ...]


def path_of(module: str) -> Path:
    """The source file of a module of this repository."""
    for root in SOURCES:
        stem = root.joinpath(*module.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path
    raise FileNotFoundError(module)


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def docstring(node: ast.AST) -> str:
    """The docstring without its indentation."""
    return inspect.cleandoc(ast.get_docstring(node, clean=True) or "")


def classes(module: str) -> Iterator[Class]:
    """The public classes of a module, in order."""
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield class_of(node)


def find_class(module: str, name: str) -> Class:
    """One class of a module."""
    return next(found for found in classes(module) if found.name == name)


def functions(module: str) -> Iterator[Method]:
    """The public functions of a module, in order."""
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield method_of(node)


def class_of(node: ast.ClassDef) -> Class:
    """What is public in a class."""
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name[0] != "_"]
    return Class(
        node.name,
        tuple(ast.unparse(base) for base in node.bases),
        docstring(node),
        tuple(fields_of(node)),
        tuple(map(method_of, methods)),
    )


def fields_of(node: ast.ClassDef) -> Iterator[Field]:
    """Annotated assignments of a class, each with the text that stands below it."""
    for item, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if item.target.id.startswith("_"):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value))
        default, bounds = default_of(item.value)
        yield Field(item.target.id, ast.unparse(item.annotation), default, text, bounds)


def default_of(value: ast.expr | None) -> tuple[str, str]:
    """The default as it is written, and what bounds it."""
    if value is None:
        return "", ""
    if not isinstance(value, ast.Call):
        return ast.unparse(value), ""
    given = {word.arg: word.value for word in value.keywords}
    default = ast.unparse(given["default"]) if "default" in given else ""
    if "default_factory" in given:
        default = {"dict": "{}", "list": "[]"}.get(ast.unparse(given["default_factory"]), "")
    limits = ast.literal_eval(given["metadata"]) if "metadata" in given else {}
    words = [f"{BOUND_WORDS[key]} {limit}" for key, limit in limits.items() if key in BOUND_WORDS]
    return default, ", ".join([*words, *(["or a function by reference"] if limits.get("function") else [])])


def method_of(node: ast.FunctionDef) -> Method:
    """A function; of a property, the signature is its name and type."""
    is_property = any(ast.unparse(mark) == "property" for mark in node.decorator_list)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    signature = f"{node.name}{returns}" if is_property else f"{node.name}({arguments}){returns}"
    return Method(node.name, signature, docstring(node))

"""The fields of a dataclass of an installed package, read from its source without importing it."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel.errors import MissingRequirement
from tkernel.module_file import file_of
from tkernel_plugins.keys.syntax import statements_of


@dataclass(frozen=True)
class Argument:
    """One field of a training-arguments class."""

    name: str
    annotation: str
    """As written, `SchedulerType | str`."""
    default: str | None
    """As written, `5e-05`; None for a field without one."""
    origin: str
    """The file of the class that declares it."""
    choices: tuple[str, ...] = ()
    """From the field's metadata, or the values of the enum in its annotation."""


@dataclass(frozen=True)
class Arguments:
    """All fields of the class `target` (`module:Class`), those of its bases included."""

    target: str
    fields: dict[str, Argument]


def read_arguments(target: str) -> Arguments:
    """The fields of `target`, `transformers.training_args:TrainingArguments`.

    Base classes and enums are followed through the import statements of each file, into other packages
    too. Nothing is imported: a package is found with `importlib.util.find_spec`, the rest are paths.

    Raises:
        MissingRequirement: the package is not installed, or has no such module or class.
    """
    module, _, name = target.partition(":")
    source = _Sources()
    if not source.exists(module):
        package = module.partition(".")[0]
        raise MissingRequirement(
            f"the training arguments are those of {target}, and {package} is not installed",
            hint="pip install 'tkernel[train]'",
        )
    found = source.find(module, name)
    if found is None:
        raise MissingRequirement(
            f"the installed {module.partition('.')[0]} has no class {target}",
            hint="pip install --upgrade 'tkernel[train]'",
        )
    return Arguments(target, source.fields_of(*found))


@dataclass(frozen=True)
class _Module:
    """The classes that a module defines, and for each imported name its module and name there."""

    classes: dict[str, ast.ClassDef]
    imports: dict[str, tuple[str, str]]


class _Sources:
    """Parsed modules, each once."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module | None] = {}

    def exists(self, module: str) -> bool:
        return self._read(module) is not None

    def find(self, module: str, name: str) -> tuple[str, ast.ClassDef] | None:
        """Module and definition of the class that `name` means in `module`."""
        seen: set[tuple[str, str]] = set()
        while (module, name) not in seen:
            seen.add((module, name))
            names = self._read(module)
            if names is not None and name in names.classes:
                return module, names.classes[name]
            if names is None or name not in names.imports:
                return None
            module, name = names.imports[name]
        return None  # modules that import the name from each other

    def fields_of(self, module: str, definition: ast.ClassDef) -> dict[str, Argument]:
        fields: dict[str, Argument] = {}
        for base in reversed(definition.bases):
            found = self.find(module, ast.unparse(base).rpartition(".")[2])
            if found is not None:
                fields |= self.fields_of(*found)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                argument = self._argument(module, node.target.id, node.annotation, node.value)
                if argument is not None:
                    fields[argument.name] = argument
        return fields

    def _argument(
        self, module: str, name: str, annotation: ast.expr, value: ast.expr | None
    ) -> Argument | None:
        written = str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
        if name.startswith("_") or written.startswith("ClassVar"):
            return None
        default = ast.unparse(value) if value else None
        choices: tuple[str, ...] = ()
        if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            if "init" in given and ast.unparse(given["init"]) == "False":
                return None
            default = ast.unparse(given["default"]) if "default" in given else None
            if "default_factory" in given:
                default = f"{ast.unparse(given['default_factory'])}()"
            metadata = _metadata(given.get("metadata"))
            choices = tuple(map(str, metadata.get("choices", ())))
            if metadata.get("const") is True and "bool" not in written:
                written = f"{written} | bool"
        choices = choices or tuple(self._enum_values(module, annotation))
        return Argument(name, written, default, str(file_of(module)), choices)

    def _enum_values(self, module: str, annotation: ast.expr) -> Iterator[str]:
        for node in ast.walk(annotation):
            found = self.find(module, node.id) if isinstance(node, ast.Name) else None
            if found and any("Enum" in ast.unparse(base) for base in found[1].bases):
                for item in found[1].body:
                    if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
                        yield str(item.value.value)

    def _read(self, module: str) -> _Module | None:
        if module not in self._modules:
            standard = module.partition(".")[0] in sys.stdlib_module_names
            path = None if standard else file_of(module)
            self._modules[module] = _names(module, path) if path and path.suffix == ".py" else None
        return self._modules[module]


def _names(module: str, path: Path) -> _Module:
    classes: dict[str, ast.ClassDef] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in _statements(statements_of(path)):
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                source = ".".join([*parents, source] if source else parents)
            for alias in node.names:
                imports[alias.asname or alias.name] = source, alias.name
    return _Module(classes, imports)


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements of a module, those under `if` and `try` too."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            handlers = [statement for handler in getattr(node, "handlers", ()) for statement in handler.body]
            yield from _statements([*node.body, *handlers, *node.orelse])
        else:
            yield node


def _metadata(metadata: ast.expr | None) -> dict[str, Any]:
    """The items of a field's metadata that are literals (a computed value, `log_levels.keys()`, is left out)."""
    found: dict[str, Any] = {}
    if isinstance(metadata, ast.Dict):
        for key, value in zip(metadata.keys, metadata.values, strict=True):
            if isinstance(key, ast.Constant):
                with contextlib.suppress(ValueError):
                    found[str(key.value)] = ast.literal_eval(value)
    return found

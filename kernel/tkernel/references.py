"""Functions by reference: `pkg.mod:fn` and `./file.py:fn`, wherever a key names a function.

An option says that it is such a key with `field(metadata={"function": True})`; then binding checks what was
written, and the lock records the file's digest. A value without a `:` is a name of the plugin's own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean, near_file
from tkernel.errors import WrongRequest
from tkernel.imports import load_file
from tkernel.module_file import file_of

_REFERENCE = re.compile(r"(?P<place>\w+(\.\w+)*|.+\.py):(?P<name>\w+(\.\w+)*)")


class FunctionNotFound(WrongRequest):
    """What a reference names is not there, or cannot be imported."""


def is_reference(value: object) -> bool:
    """Whether a value names a function by its place."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def find_function(text: str) -> Path:
    """The file that defines the function; its source is read and nothing is imported.

    Raises:
        FunctionNotFound: no such module or file, a syntax error, or nothing of that name in it.
    """
    place, name = _split(text)
    if place.endswith(".py"):
        file = Path(place).expanduser()
        if not file.is_file():
            raise FunctionNotFound(f"there is no file {place} (in `{text}`)", hint=near_file(file))
    else:
        found = file_of(place)
        if found is None:
            package = place.partition(".")[0]
            hint = f"Is {package} installed? A file of your own is named by its path: ./{package}.py:{name}"
            raise FunctionNotFound(f"there is no module {place} (in `{text}`)", hint=hint)
        file = found / "__init__.py" if found.is_dir() else found
    if file.suffix == ".py" and file.is_file():
        _look_for(name.partition(".")[0], file, text)
    return file


def load_function(text: str) -> Callable[..., Any]:
    """Import the module, or execute the file, and give the function.

    Raises:
        FunctionNotFound: see `find_function`; or importing fails, or it is no function.
    """
    file = find_function(text)
    place, name = _split(text)
    try:
        if place.endswith(".py"):
            alias = f"tk_function_{file.stem}_{digest(file)[-12:]}"
            module = sys.modules.get(alias) or load_file(file.resolve(), alias)
        else:
            module = importlib.import_module(place)
        function = functools.reduce(getattr, name.split("."), module)
    except Exception as error:
        message = f"`{text}` cannot be imported: {type(error).__name__}: {error}"
        raise FunctionNotFound(message, hint=f"Mend {file}.") from error
    if not callable(function):
        raise FunctionNotFound(f"`{text}` is a {type(function).__name__}, not a function")
    return function


def digest(file: Path) -> str:
    """`sha256:...` of a file's content."""
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def _split(text: str) -> tuple[str, str]:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        hint = "Write `package.module:function` or `./file.py:function`."
        raise FunctionNotFound(f"`{text}` does not name a function", hint=hint)
    return match["place"], match["name"]


def _look_for(name: str, file: Path, text: str) -> None:
    """Raise `FunctionNotFound` if the source does surely not define `name`."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise FunctionNotFound(f"{file}:{error.lineno}: {error.msg} (in `{text}`)") from error
    defined: set[str] = set()
    for node in ast.walk(tree):  # also under `if` and `try`; a name of an inner scope harms nobody
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if not {name, "*", "__getattr__"} & defined:
        raise FunctionNotFound(f"{file} has no {name!r} (in `{text}`)", hint=did_you_mean(name, defined))

"""The syntax tree of an installed module, which is read and not imported."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def statements_of(file: Path) -> list[ast.stmt]:
    """The statements of a source file.

    CPython 3.11 and 3.12 count how deep they are in a tree for all threads together. Another thread that parses in
    between, be it to print a traceback, would end this in a SystemError; it gets its turn where garbage is searched for.

    Raises:
        SyntaxError, OSError: the file is no Python, or cannot be read.
    """
    source, searches = file.read_bytes(), gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source).body
    finally:
        if searches:
            gc.enable()

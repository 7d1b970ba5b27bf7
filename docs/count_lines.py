"""How large the kernel is: `python docs/count_lines.py` prints lines, lines of code and statements of each part.

A line of code is one that is neither blank nor a comment nor part of a docstring; a statement may have several.
"""

from __future__ import annotations

import ast
from pathlib import Path

from source_reading import ROOT

KERNEL = ROOT / "kernel" / "tkernel"


def count(path: Path) -> tuple[int, int, int]:
    """All lines of a file, its lines of code, and its statements without docstrings."""
    text = path.read_text(encoding="utf-8")
    documented: set[int] = set()
    statements = 0
    for node in ast.walk(ast.parse(text)):
        statements += isinstance(node, ast.stmt)
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            statements -= 1
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = text.splitlines()
    code = [
        n
        for n, line in enumerate(lines, 1)
        if line.strip() and line.strip()[0] != "#" and n not in documented
    ]
    return len(lines), len(code), statements


def main() -> None:
    """Print the parts, `testing` apart from the sum."""
    parts: dict[str, list[int]] = {}
    for path in sorted(KERNEL.rglob("*.py")):
        part = path.relative_to(KERNEL).parts[0]
        for position, lines in enumerate(count(path)):
            parts.setdefault(part, [0, 0, 0])[position] += lines
    print(f"{'':20} {'lines':>6} {'code':>6} {'statements':>10}")
    for part, (lines, code, statements) in parts.items():
        print(f"{part:20} {lines:6,} {code:6,} {statements:10,}")
    for position, word in enumerate(("lines", "of code", "statements")):
        print(
            f"{sum(n[position] for part, n in parts.items() if part != 'testing'):,} {word} without testing"
        )


if __name__ == "__main__":
    main()

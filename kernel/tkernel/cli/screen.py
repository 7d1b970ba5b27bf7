"""What `tk` prints: plain aligned text, so that it can be read, piped and pasted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tkernel.planning import Session
from tkernel.types.stage import StageResult


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Left-aligned columns, two spaces apart; the last one is not padded."""
    lines = [tuple(header), *map(tuple, rows)] if header else list(map(tuple, rows))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)] if lines else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def origin(distribution: str, version: str) -> str:
    """Distribution and version; of the digest of a file its first twelve digits."""
    return f"{distribution} {version[:19] if version.startswith('sha256:') else version}"


def show_notes(session: Session) -> None:
    """What the configuration did that the user may not expect, on standard error."""
    for note in session.bound.notes:
        print(f"note: {note}", file=sys.stderr)


def show_result(result: StageResult) -> None:
    """The last lines of a run."""
    if result.output_dir is not None:
        print(f"saved to {result.output_dir} after {result.steps} steps")

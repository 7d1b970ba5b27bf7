"""What `tk` prints: plain aligned text, so that it can be read, piped and pasted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tkernel.session import Session


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


def show_notes(*sessions: Session) -> None:
    """What the configuration did that the user may not expect, on standard error."""
    for note in dict.fromkeys(note for session in sessions for note in session.bound.notes):
        print(f"note: {note}", file=sys.stderr)

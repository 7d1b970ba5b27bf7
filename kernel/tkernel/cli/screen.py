"""What `tk` prints: plain aligned text, so that it can be read, piped and pasted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tkernel.config.renames import RENAMES
from tkernel.planning import Session
from tkernel.types.plan import Choice
from tkernel.types.stage import StageResult


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Left-aligned columns, two spaces apart; the last one is not padded."""
    lines = [tuple(header), *map(tuple, rows)] if header else list(map(tuple, rows))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)] if lines else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plan_rows(session: Session) -> list[tuple[str, str, str, str]]:
    """Hook, provider, distribution and version, and why, one row per choice."""

    def row(choice: Choice) -> tuple[str, str, str, str]:
        hook = f"{choice.hook} {choice.subject}" if choice.subject else choice.hook
        return hook, f"{choice.kind}:{choice.name}", origin(choice.distribution, choice.version), why(choice)

    return [row(choice) for choice in (*session.plan.choices, *session.plan.extensions)]


def origin(distribution: str, version: str) -> str:
    """Distribution and version; of the digest of a file its first twelve digits."""
    return f"{distribution} {version[:19] if version.startswith('sha256:') else version}"


def why(choice: Choice) -> str:
    """How a provider was chosen, and the reason in words."""
    return choice.reason if choice.how == "extension" else f"{choice.how}: {choice.reason}"


def show_notes(session: Session) -> None:
    """What the configuration did that the user may not expect, on standard error."""
    for note in session.bound.notes:
        print(f"note: {note}", file=sys.stderr)


def show_plan(session: Session) -> None:
    """The table of a plan."""
    facts = session.facts
    print(f"model   {facts.name}  ({facts.source}, model_type {facts.model_type})")
    print(table(plan_rows(session), ("hook", "provider", "distribution", "why")))
    show_notes(session)


def plan_as_json(session: Session) -> dict[str, Any]:
    """The same for programs."""
    facts = session.facts
    return {
        "model": {"name": facts.name, "source": facts.source, "model_type": facts.model_type},
        "choices": [asdict(choice) for choice in session.plan.choices],
        "extensions": [asdict(choice) for choice in session.plan.extensions],
        "settings": {
            key: {"value": session.settings[key], "origin": session.settings.origin(key)}
            for key in session.settings
        },
        "notes": list(session.bound.notes),
    }


def show_key(session: Session, key: str) -> bool:
    """Where the value of `key` came from and who owns it; False if the run has no such key."""
    rename = RENAMES.get(key)
    if key not in session.bound.keys and rename is not None and rename.new is not None:
        print(f"{key} is now {rename.new.removeprefix('$')}")
        return key in session.settings or rename.new in session.bound.keys
    owned = session.bound.keys.get(key)
    if owned is None:
        return False
    # What was written under an older name is in the bound settings alone.
    history = session.settings.history(key) or session.bound.settings.history(key)
    value = repr(history[-1].value) if history else owned.default
    print(f"{key} = {value}")
    print(f"  owner    {owned.owner} ({owned.distribution})")
    print(f"  default  {owned.default}")
    for setting in history:
        print(f"  set to   {setting.value!r} at {setting.origin}")
    return True


def show_result(result: StageResult) -> None:
    """The last lines of a run."""
    if result.output_dir is not None:
        print(f"saved to {result.output_dir} after {result.steps} steps")

"""The choices of a run, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["pinned", "preferred", "matched", "default", "extension"]


@dataclass(frozen=True)
class Choice:
    """One provider (or extension) and why it was chosen."""

    hook: str
    """`load_model`, ... ; `*` for an extension."""
    kind: str
    name: str
    """The entry point's name, `lora` or `lora.unsloth`."""
    distribution: str
    """`tkernel`; `file` or `object` for the zero-packaging doors."""
    version: str
    target: str
    """`module:attribute`, or the path of a file."""
    how: How
    reason: str
    subject: str | None = None
    """Which of several calls: the dataset's name, the adapter step's."""
    origin: str | None = None
    """Where the setting behind it was written, `train.yaml:3`."""

    @property
    def label(self) -> str:
        """`adapter:lora`; the same for every dataset of one format."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True)
class Plan:
    """Every choice of a run, made before torch or anything like it is imported."""

    choices: tuple[Choice, ...]
    extensions: tuple[Choice, ...] = ()

    def chosen(self, kind: str, subject: str | None = None) -> Choice | None:
        """The choice for `kind` (and dataset `subject`), or None where the run needs none."""
        for choice in self.choices:
            if choice.kind == kind and (subject is None or choice.subject == subject):
                return choice
        return None

"""What `tk data view`, `stats` and `prepare` begin with: the data of a run, prepared as training does, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tkernel.errors import UsageError
from tkernel.pipeline import Session, open_session, stage_request
from tkernel.types.requests import StageRequest
from tkernel_plugins.commands.screen import show_notes

if TYPE_CHECKING:
    from tkernel_plugins.data.prepare import Prepared

FOR_DATA = ("model_name_or_path", "dataset")
"""Keys without which there is nothing to prepare."""

CALLS = ("model", "dataset", "template", "media")
"""Kinds of plugins that looking at data calls; what only training needs, a GPU or a tracker, is not checked."""


@dataclass(frozen=True)
class DataRun:
    """A run as far as its data: planned, read and prepared."""

    file: str
    session: Session
    request: StageRequest
    kind: str
    """The kind of rows of the stage."""
    prepared: Prepared
    words: tuple[str, ...] = ()
    """What names the run on a command line: its file, overrides and plugins."""


def session_of(
    file: str | None, overrides: Sequence[str], plugins: Sequence[str], *, drop_bad_rows: bool = False
) -> Session:
    """The planned run of a file; with `drop_bad_rows`, bad rows are counted where the format can.

    Raises:
        UsageError: no file and no overrides.
        ConfigError: everything that is wrong with the configuration.
    """
    if file is None and not overrides:
        raise UsageError(
            "no configuration is given", hint="Name the YAML file of a run: tk data view train.yaml"
        )
    session = open_session(file, overrides=overrides, plugins=plugins, needs=FOR_DATA, calls=CALLS)
    if drop_bad_rows and "on_bad_row" in session.bound.keys:
        dropping = [*overrides, "on_bad_row=drop"]
        session = open_session(file, overrides=dropping, plugins=plugins, needs=FOR_DATA, calls=CALLS)
    show_notes(session)
    return session


def kind_of(session: Session) -> str:
    """The kind of rows that the stage of a session needs."""
    return getattr(session.active.object(session.choice("stage")), "rows", None) or "supervised"


def prepared_run(
    session: Session, file: str | None, overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> DataRun:
    """The data of a session, prepared; no file of weights is opened."""
    from tkernel_plugins.data.prepare import prepare

    request = stage_request(session, weights=False)
    kind = kind_of(session)
    given = [file] if file is not None else []
    words = (*given, *overrides, *(word for plugin in plugins for word in ("--plugin", plugin)))
    return DataRun(file or "the command line", session, request, kind, prepare(request, kind), words)

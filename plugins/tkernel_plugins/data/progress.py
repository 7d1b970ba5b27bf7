"""A progress bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

_EVERY_SECONDS = 30.0


class Progress(AbstractContextManager["Progress"]):
    """Counts the rows of one step; a line at the end says how many and how fast.

    Args:
        title: what is done, `encode alpaca_en_demo`.
        total: how many rows there are, None if that is not known.
        quiet_below: seconds; a step that took less has no line at the end.
    """

    def __init__(self, title: str, total: int | None, *, quiet_below: float = 0.0) -> None:
        self.title, self.total, self.quiet_below, self.done = title, total, quiet_below, 0
        self._bar: Any = None
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            speed = TextColumn("{task.fields[speed]}")
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed)
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, speed="")
        return self

    def advance(self, rows: int) -> None:
        """`rows` more are done."""
        self.done += rows
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=self._speed(now))
        elif now - self._told > _EVERY_SECONDS and self.done != self.total:
            self._told = now
            print(f"{self.title}: {self._position(now)}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        now = time.monotonic()
        if kind is None and now - self._started >= self.quiet_below:
            took = f"{now - self._started:.1f} s, {self._speed(now)}"
            print(f"{self.title}: {self.done:,} rows in {took}", file=sys.stderr, flush=True)

    def _position(self, now: float) -> str:
        if self.total is None:
            return f"{self.done:,} rows, {self._speed(now)}"
        left = (self.total - self.done) * (now - self._started) / max(self.done, 1)
        return f"{self.done:,} of {self.total:,} rows, {self._speed(now)}, {left:.0f} s left"

    def _speed(self, now: float) -> str:
        return f"{self.done / max(now - self._started, 1e-9):,.0f} rows/s"

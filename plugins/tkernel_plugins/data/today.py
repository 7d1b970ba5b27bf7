"""Today's date, for the few templates that print it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime

_fixed: ContextVar[date | None] = ContextVar("today", default=None)


def today() -> date:
    """The local date, or the one of `today_is`; `SOURCE_DATE_EPOCH` (seconds since 1970, UTC) fixes it for a
    reproducible run."""
    if (day := _fixed.get()) is not None:
        return day
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC).date() if epoch else date.today()


@contextmanager
def today_is(day: date | None) -> Iterator[None]:
    """Inside, `today()` is `day`; None changes nothing."""
    token = _fixed.set(_fixed.get() if day is None else day)
    try:
        yield
    finally:
        _fixed.reset(token)

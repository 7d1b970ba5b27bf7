"""Today's date, for the few templates that print it."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime


def today() -> date:
    """The local date; `SOURCE_DATE_EPOCH` (seconds since 1970, UTC) fixes it for a reproducible run."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(fixed), UTC).date() if fixed else date.today()
